"""humaneval and mbpp: the code in an answer is found, whatever stands around it."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path

import pytest

from fastdllm.decoding.user_code import code_files
from tasks import code_answers, humaneval, mbpp
from tasks.code_answers import program, score
from tasks.code_statements import Statement, statements_of
from tests.support.shipped_tasks import ROOT

PROMPT = '''from typing import List


def total(numbers: List[int]) -> int:
    """Return the sum of numbers.
    >>> total([1, 2])
    3
    """
'''
DOC = {
    "prompt": PROMPT,
    "entry_point": "total",
    "test": "def check(f):\n    assert f([1, 2, 3]) == 6\n    assert f([]) == 0\n",
}
BODY = "    result = 0\n    for number in numbers:\n        result += number\n    return result\n"
FUNCTION = PROMPT + BODY
BARE = f"def total(numbers):\n{BODY}"
WRONG = "def total(numbers):\n    return 7\n"
STUB = "def total(numbers):\n    pass\n"
ADD = "def add(a, b):\n    return math.floor(a + b)\n"
USES_ADD = BARE.replace("result += number", "result = add(result, number)")
REDUCES = "def total(numbers):\n    return functools.reduce(operator.add, numbers, 0)\n"
RECURSIVE = "def total(x):\n    return x[0] + total(x[1:]) if x else 0\n"
ONE = "def one(n):\n    return n\n"
USES_ONE = BARE.replace("+= number", "+= one(number)")
USES_CLASS = BARE.replace("+= number", "+= Sum().one(number)")
COUNTED = ":\n    global calls\n    calls += 1"
ADDS = BODY.replace("result += number", "result = add(result, number)")
FENCES = ":\n    '''Add.\n\n    ```\n    total([1])\n    ```\n    '''"
USES_TABLE = BARE.replace("= 0", "= table[0]")
IMPORTS_IT = "from solution import total\n\nprint(total([1, 2]))"
TEST_FILE = (
    "import pytest\nfrom total import total\n\ndef test_total():\n    assert total([1]) == 2"
)
FLOORS = "def total(numbers):\n    return floor(sum(numbers))\n"
ROUNDS = "import math\n\n" + FLOORS.replace("floor", "math.floor")
ADDS_ONE = FLOORS.replace("floor", "1 + ")
SIZED = "import sys\n\ndef total(numbers):\n    return min(sum(numbers), sys.maxsize)\n"
METHOD = BARE.replace("(numbers)", "(self, numbers)")
RIGHT, FAILS, NONE = "right", "fails", "no code"


def fenced(code: str, language: str = "python", fence: str = "```") -> str:
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


# What is said, the answer, and what becomes of it.
FORMS = [
    ("a body, as the prompt goes on", BODY, RIGHT),
    ("a body without its first spaces", BODY.strip(), RIGHT),
    ("a body without any indentation", textwrap.dedent(BODY), RIGHT),
    ("a body in tabs", BODY.replace("    ", "\t"), RIGHT),
    ("a body, then a sentence", f"{BODY}\nThis adds them up.\n", RIGHT),
    ("a body, then another function", f"{BODY}\n\ndef other():\n    return 1\n", RIGHT),
    ("a body that is cut", BODY.partition("return")[0] + "    ret", NONE),
    ("a body in one line", "    return sum(numbers)", RIGHT),
    ("a body in a fence", fenced(BODY), RIGHT),
    ("a body in a fence, without indentation", fenced(textwrap.dedent(BODY)), RIGHT),
    ("a body whose first line returns", "if not numbers: return 0\nreturn sum(numbers)", RIGHT),
    ("a body that ends with a fence", f"{BODY}```\nThat is it.", RIGHT),
    ("the function, bare", BARE, RIGHT),
    ("the function with the prompt", FUNCTION, RIGHT),
    ("the function between sentences", f"Sure, here it is:\n\n{BARE}\nIt adds them up.\n", RIGHT),
    ("the function behind a sentence, at once", f"Here it is:\n{BARE}", RIGHT),
    (
        "two bare functions with a sentence between",
        f"def half(x):\n    return x / 2\n\nAnd then:\n\n{BARE}",
        RIGHT,
    ),
    ("indented between sentences", f"So:\n\n{textwrap.indent(BARE, '    ')}\nThat is it.", RIGHT),
    ("the item of a list", f"1. The code:\n\n{textwrap.indent(BARE, '   ')}\n2. Done.", RIGHT),
    ("a body with a function in it", f"    def add(a, b):\n        return a + b\n{ADDS}", RIGHT),
    ("a fence with a title", fenced(BARE, 'python title="total.py"'), RIGHT),
    ("a fence with a file", fenced(BARE, "python:total.py"), RIGHT),
    ("a fence with fences in a docstring", fenced(BARE.replace(":", FENCES, 1)), RIGHT),
    ("a fence", fenced(BARE), RIGHT),
    ("a fence with sentences around", f"Sure!\n\n{fenced(BARE)}\n\nIt adds them up.", RIGHT),
    ("a fence behind a sentence in its line", f"Here it is: {fenced(BARE)}", RIGHT),
    ("a fence for py", fenced(BARE, "py"), RIGHT),
    ("a fence for Python", fenced(BARE, "Python"), RIGHT),
    ("a fence for python3", fenced(BARE, "python3"), RIGHT),
    ("a fence without a language", fenced(BARE, ""), RIGHT),
    ("a fence with a space", fenced(BARE, " python"), RIGHT),
    ("a fence of waves", fenced(BARE, fence="~~~"), RIGHT),
    ("a fence of four", fenced(BARE, fence="````"), RIGHT),
    ("an indented fence", "1. The code:\n\n" + textwrap.indent(fenced(BARE), "   "), RIGHT),
    ("a fence never closed", f"```python\n{BARE}", RIGHT),
    ("a fence never opened", f"{BARE}```\nThat is it.", RIGHT),
    ("a fence that ends behind the code", f"```python\n{BARE.rstrip()}```", RIGHT),
    ("a fence begun twice", f"```python\n```python\n{BARE}```", RIGHT),
    ("a fence cut in its function", f"```python\n{BARE[:60]}", NONE),
    ("a fence cut in what follows", f"```python\n{BARE}\nfor x in [1, 2", RIGHT),
    (
        "a fence of another language first",
        f"{fenced('pip install it', 'bash')}\n{fenced(BARE)}",
        RIGHT,
    ),
    ("a fence of another language only", fenced("int total() { return 1; }", "c"), NONE),
    ("a usage after it", f"{fenced(BARE)}\nUse it so:\n{fenced('print(total([1, 2]))')}", RIGHT),
    ("an import of it after it", f"{fenced(BARE)}\nUse it so:\n{fenced(IMPORTS_IT)}", RIGHT),
    ("a file of tests after it", f"{fenced(BARE)}\n**Tests**\n{fenced(TEST_FILE)}", RIGHT),
    ("everything of its module after it", f"{fenced(BARE)}\n{fenced('from a import *')}", RIGHT),
    ("a variable of its name", f"{fenced(BARE)}\nThat is:\n{fenced('total = 1 + 2')}", RIGHT),
    ("an import only", "```python\nfrom operator import add as total\n```", FAILS),
    ("the output after it", f"{fenced(BARE)}\nThis prints:\n{fenced('6', '')}", RIGHT),
    ("a first attempt", f"{fenced(WRONG)}\nNo, that is wrong:\n{fenced(BARE)}", RIGHT),
    ("a last attempt that is wrong", f"{fenced(BARE)}\nBetter:\n{fenced(WRONG)}", FAILS),
    ("a last attempt that is cut", f"{fenced(BARE)}\nBetter:\n```python\n{WRONG}    x = (", RIGHT),
    ("a last attempt without a fence", f"{fenced(WRONG)}\nNo, it is:\n\n{BARE}", RIGHT),
    ("a last attempt in a fence never closed", f"{fenced(WRONG)}\n```\n{BARE}\nx = 1", RIGHT),
    ("a last attempt that is cut in its fence", f"```\n{BARE}\n{WRONG}", RIGHT),
    ("a last attempt that is cut as if whole", f"{fenced(BARE)}\nOr:\n```\n{WRONG}", RIGHT),
    ("the beginning before it", f"{fenced(PROMPT)}\nis done by\n{fenced(BARE)}", RIGHT),
    ("the beginning, then a body", f"{fenced(PROMPT)}\nis done by\n{fenced(BODY)}", RIGHT),
    ("its outline after it", f"{fenced(BARE)}\nThat is:\n{fenced(STUB)}", RIGHT),
    (
        "what it needs in fences of its own",
        "\n".join(map(fenced, ("import math", ADD, USES_ADD))),
        RIGHT,
    ),
    ("an import", fenced(f"import functools\nimport operator\n\n{REDUCES}"), RIGHT),
    (
        "no import of typing",
        fenced(BARE.replace("(numbers)", "(numbers: List[int]) -> int")),
        RIGHT,
    ),
    (
        "no import of anything else",
        fenced("def total(numbers):\n    return math.fsum(numbers)\n"),
        FAILS,
    ),
    ("a test by what it imports", f"{ROUNDS}\nassert math.isclose(total([1]), 2)\n", RIGHT),
    ("what it reads by what it imports", f"{SIZED}\nn = int(sys.stdin.readline())\n", RIGHT),
    ("an end by what it imports", f"{SIZED}\nsys.exit(total([1]))\n", RIGHT),
    ("a package that it does not need", f"import no_such_package\n\n{BARE}", RIGHT),
    ("a script", f"{BARE}\nif __name__ == '__main__':\n    print(total(eval(input())))\n", RIGHT),
    ("what it reads", f"n = int(input())\n{BARE}\nprint(total([n]))\n", RIGHT),
    ("its own tests", f"{BARE}\nassert total([1]) == 1\nassert total([2]) == 3, 'wrong'\n", RIGHT),
    (
        "its own test function",
        f"{BARE}\ndef check(candidate):\n    assert False\n\ncheck(total)\n",
        RIGHT,
    ),
    ("prints", f"{BARE}\nprint(total([1, 2]))\nfor x in range(3):\n    print(total([x]))\n", RIGHT),
    ("an end at once", f"{BARE}\nexit()\n", RIGHT),
    (
        "a table that it fills",
        f"table = []\nfor i in range(9):\n    table.append(i)\n\n{USES_TABLE}",
        RIGHT,
    ),
    (
        "a table that is changed",
        f"table = {{}}\ntable[0] = 0\n\n{USES_TABLE}",
        RIGHT,
    ),
    ("a global that it counts", f"calls = 0\n\n{BARE.replace(':', COUNTED, 1)}", RIGHT),
    ("a cache", f"from functools import cache\n\n{ONE}\none = cache(one)\n{USES_ONE}", RIGHT),
    (
        "another name for a type",
        f"Numbers = list\n\n{BARE.replace('numbers)', 'numbers: Numbers)', 1)}",
        RIGHT,
    ),
    ("a memo of its own", f"{BARE.replace('= 0', '= total.start')}\ntotal.start = 0\n", RIGHT),
    ("a deeper recursion", f"import sys\nsys.setrecursionlimit(5000)\n\n{RECURSIVE}", RIGHT),
    ("a decorator", f"def less(f):\n    return lambda x: f(x) - 1\n\n@less\n{ADDS_ONE}", RIGHT),
    ("a class that it uses", f"class Sum:\n    one = lambda self, n: n\n\n{USES_CLASS}", RIGHT),
    ("a function without def", fenced("total = lambda numbers: sum(numbers)"), RIGHT),
    (
        "two statements in a line",
        "import math; total = lambda numbers: math.floor(sum(numbers))",
        RIGHT,
    ),
    ("a method", fenced("class Solution:\n" + textwrap.indent(METHOD, "    ")), NONE),
    ("an async function", fenced(f"async {BARE}"), FAILS),
    ("another name", fenced(BARE.replace("total", "sum_of")), NONE),
    ("a future import", fenced(f"from __future__ import annotations\n{BARE}"), RIGHT),
    ("everything of a module", fenced(f"from math import *\n\n{FLOORS}"), RIGHT),
    ("Windows", fenced(BARE).replace("\n", "\r\n"), RIGHT),
    ("tabs", fenced(BARE.replace("    ", "\t")), RIGHT),
    ("other letters", fenced(f"# Σ über alle\n{BARE.replace('result', 'größe')}"), RIGHT),
    ("quotes of print", fenced("def total(numbers):\n    return len(“”)\n"), NONE),
    (
        "a fence in a docstring",
        fenced(BARE.replace("):", "):\n    '''As ```total([1])```.'''")),
        RIGHT,
    ),
    ("outline only", STUB, FAILS),
    ("nothing", "", NONE),
    ("a sentence", "The answer is 1.", NONE),
    ("a word", "ok", NONE),
    ("an empty fence", "```python\n```", NONE),
    # These took minutes to hours to look for a fence in.
    ("waves without end", f"{'~' * 8000} x y\n{BARE}", RIGHT),
    ("spaces without end", f"{' ' * 160_000}x\n{BARE}", RIGHT),
    ("many minus signs", f"x = {'-' * 20000}1\n{BARE}", RIGHT),
    ("a zero byte", f"{BARE}\n\0", RIGHT),
    ("half a letter", f"{BARE}\n\udc80", RIGHT),
    ("what only a compiler refuses", f"{BARE}\ndef other(a, a):\n    return a\n", RIGHT),
    ("many brackets", "def total(numbers):\n    return " + "(" * 5000, NONE),
    ("a long sum", "def total(numbers):\n    return 1" + "+1" * 20000, NONE),
]


@pytest.mark.filterwarnings("ignore:coroutine 'total' was never awaited")
@pytest.mark.parametrize(
    ("answer", "becomes"), [form[1:] for form in FORMS], ids=[f[0] for f in FORMS]
)
def test_the_code_of_each_form_is_found(answer: str, becomes: str) -> None:
    code = humaneval.program_of(answer, DOC)
    assert (code is None) == (becomes == NONE), code
    if code is None:
        return
    names: dict[str, object] = {"__name__": "answer"}
    try:
        exec(code, names)
        exec(humaneval.tests(DOC), names)
    except Exception:
        assert becomes == FAILS, code
    else:
        assert becomes == RIGHT, code


def test_a_generator_is_a_function_too() -> None:
    code = "def total(numbers):\n    yield from numbers\n"
    assert program(f"{fenced(code)}\n{fenced(IMPORTS_IT)}", ["total"]) == code


def test_nothing_is_said_of_an_answer_that_python_would_warn_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert humaneval.program_of(BARE.replace("= 0", "= 0 if numbers is 1 else 0"), DOC)


def test_an_answer_that_repeats_a_bracket_is_read_once_per_line(monkeypatch) -> None:
    tried = []

    def counted(code: str) -> list[Statement]:
        tried.append(code)
        return statements_of(code)

    monkeypatch.setattr(code_answers, "statements_of", counted)
    assert program("x = (\n" * 100, ["total"], prompt=PROMPT) is None
    assert len(tried) < 300


def test_only_what_is_needed_is_kept() -> None:
    answer = f"import os\nimport math\n\n{ADD}\n{BARE}\nprint(add(3, 1))\n"
    assert program(answer, ["total"]) == BARE
    assert program(answer, ["total", "add"]) == f"import math\n\n{ADD}\n{BARE}"


def test_helpers_of_the_prompt_need_not_be_repeated() -> None:
    prompt = (
        "def double(x):\n    return 2 * x\n\n\ndef total(numbers):\n    '''Sum of doubles.'''\n"
    )
    doc = DOC | {"prompt": prompt}
    code = humaneval.program_of("def total(numbers):\n    return sum(map(double, numbers))\n", doc)
    assert code is not None
    names: dict[str, object] = {}
    exec(code, names)
    assert names["total"]([1, 2]) == 6


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        (["assert f(1) == 2"], ["f"]),
        (["assert sum(10, 15) == 6"], ["sum"]),
        (["assert set(f(1)) == set([2])", "assert g(1) == 2"], ["f", "set", "g"]),
        (["assert math.isclose(f(1), 2)"], ["f"]),
    ],
)
def test_the_function_that_mbpp_asks_for_is_read_from_its_tests(tests, names) -> None:
    doc = {"test_setup_code": "", "test_list": tests}
    assert mbpp.asked(doc) == names
    doc = {"test_setup_code": "root = Node(1)", "test_list": ["assert f(root) == True"]}
    assert mbpp.asked(doc) == ["f", "Node"]


@pytest.mark.parametrize("tests", [[], ["x == 1"], ["assert f(1) =="]])
def test_tests_without_a_function_are_refused(tests: list[str]) -> None:
    with pytest.raises(ValueError, match=r"calls no function|not valid Python"):
        mbpp.tests({"test_setup_code": "", "test_list": tests})


@pytest.mark.parametrize("task", ["humaneval", "mbpp"])
def test_the_sandbox_is_no_part_of_the_tasks(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    files = {file.as_posix() for file in code_files(Path(f"tasks/{task}.py"))}
    assert files == {f"tasks/{task}.py", "tasks/code_answers.py", "tasks/code_statements.py"}


def test_a_verdict_is_a_score() -> None:
    passed = {"code": "x", "outcome": "passed", "reason": ""}
    assert score({}, [passed]) == {"pass@1": 1.0, "code_found": 1.0, "timeout": 0.0}
    slow = {"code": "x", "outcome": "timeout", "reason": "used 10 s of processor time"}
    assert score({}, [slow]) == {"pass@1": 0.0, "code_found": 1.0, "timeout": 1.0}
    silent = {"code": None, "outcome": "no code", "reason": ""}
    assert score({}, [silent]) == {"pass@1": 0.0, "code_found": 0.0, "timeout": 0.0}
