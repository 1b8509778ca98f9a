"""What a sandboxed process runs: an answer, then the tests of its item. Read as text by warden.py.

The tests, and the word that says they ended, are handed over only when the answer's own code has
ended: nothing that the answer does at once, such as to exit or to print, can say that it passed.
"""

import os
import sys

# Where warden.py has put the two pipes.
IN, OUT = 3, 4
LONGEST_REASON = 300


def main() -> None:
    """Run one answer and its tests; a process that ends without the word has not passed."""
    read, write, leave = os.read, os.write, os._exit  # an answer may put others in their place

    def received() -> bytes:
        return exactly(int(exactly(16), 16))

    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = read(IN, min(size - len(data), 65536))
            if not part:
                leave(1)
            data += part
        return data

    def run(source: bytes) -> None:
        exec(compile(source.decode("utf-8", "surrogatepass"), "answer", "exec"), module.__dict__)

    write(OUT, b"started\n")
    answer = received()
    # A module of its own: dataclasses and typing look theirs up. Not __main__, so that what an
    # answer would do as a script is left out, as in the published evaluations.
    module = type(sys)("answer")
    sys.modules["answer"] = module
    try:
        run(answer)
        write(OUT, b"loaded\n")
        tests, word = received(), received()
        run(tests)
    except BaseException as error:
        try:
            reason = f"{type(error).__name__}: {error}"
        except BaseException:
            reason = type(error).__name__
        line = " ".join(reason.split())[:LONGEST_REASON]
        write(OUT, b"failed " + line.encode("utf-8", "replace") + b"\n")
        leave(0)
    write(OUT, word + b"\n")
    leave(0)


if __name__ == "__main__":
    main()
