"""What a sandboxed process runs: an answer, then the tests of its item. Read as text by warden.py.

A word says that the answer's own code has ended. Only then its tests are handed over, with the word
that says they have ended: nothing that an answer does at once, such as to exit or to print, can say
that it passed.
"""

import os
import sys

# Where warden.py has put the two pipes.
IN, OUT = 3, 4
LONGEST_REASON = 300


def main() -> None:
    """Run one answer and its tests; a process that ends without the last word has not passed."""
    # An answer may put others in their place.
    read, write, leave, process = os.read, os.write, os._exit, os.getpid
    first = process()

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
        try:
            exec(compile(source.decode("utf-8", "surrogatepass"), "answer", "exec"), names)
        finally:
            if process() != first:  # a copy, which the answer has made
                leave(0)

    write(OUT, b"started\n")
    loaded, answer = received(), received()
    # A module of its own: dataclasses and typing look theirs up. Not __main__, so that what an
    # answer would do as a script is left out, as in the published evaluations.
    module = type(sys)("answer")
    sys.modules["answer"] = module
    names = module.__dict__
    try:
        run(answer)
        write(OUT, loaded + b"\n")
        passed, tests = received(), received()
        run(tests)
    except BaseException as error:
        try:
            reason = f"{type(error).__name__}: {error}"
        except BaseException:
            reason = type(error).__name__
        line = " ".join(reason.split())[:LONGEST_REASON]
        write(OUT, b"failed " + line.encode("utf-8", "replace") + b"\n")
        leave(0)
    write(OUT, passed + b"\n")
    leave(0)


if __name__ == "__main__":
    main()
