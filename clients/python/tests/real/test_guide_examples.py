"""The guide's four examples, exactly as docs/clients/python.md prints them, and what they cost."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace as Object
from typing import Any, TypeAlias

import pytest

from tests.real.bank import Bank
from tests.real.server import ROOT
from tokentill import InsufficientTokensError
from tokentill.functions import default_async_client

PAGE = ROOT / "docs" / "clients" / "python.md"

Example: TypeAlias = Callable[[int], dict[str, Any]]

FEATURES = {
    1: "image-processing-endpoint-id",
    2: "text-generation-endpoint-id",
    3: "translation-endpoint-id",
    4: "public-data-endpoint-id",
}


@pytest.fixture
def example(environment: None) -> Iterator[Example]:
    """Reads an example off the page; closes the client it made, if any."""
    read: list[dict[str, Any]] = []

    def example(number: int) -> dict[str, Any]:
        read.append(names_of(number))
        return read[-1]

    yield example
    for names in read:
        if "client" in names:
            names["client"].close()


def names_of(number: int) -> dict[str, Any]:
    """The names that the page's code of this example defines, run with the services it takes for granted."""
    page = PAGE.read_text()
    section = re.search(rf"^### Example {number}:.*?(?=^##)", page, re.MULTILINE | re.DOTALL)
    assert section, f"No example {number} in {PAGE}"
    [code] = re.findall(r"```python\n(.*?)```", section.group(), re.DOTALL)
    assert FEATURES[number] in code

    async def translate(text: str, target_language: str) -> str:
        return f"{target_language}: {text}"

    names: dict[str, Any] = {
        "math": math,
        "image_processing_service": Object(process=lambda url: f"processed {url}"),
        "ai_service": Object(generate=lambda prompt: prompt * 3),
        "calculate_input_tokens": lambda text: math.ceil(len(text) / 10),
        "calculate_output_tokens": lambda text: math.ceil(len(text) / 10),
        "translation_service": Object(translate=translate),
        "public_data_service": Object(fetch=lambda query: [query]),
    }
    exec(compile(code, f"{PAGE.name}, example {number}", "exec"), names)  # noqa: S102 - our own page
    return names


@pytest.fixture(scope="module")
def package(bank: Bank) -> str:
    return bank.package(dict.fromkeys(FEATURES.values(), 10))


@pytest.fixture
def user(bank: Bank, package: str) -> str:
    return bank.wallet(package, 1_000)


def run(function: Callable[..., Any], *args: Any) -> Any:
    """Call it as its service would, whose end also closes the connections of the loop."""

    async def asynchronous() -> Any:
        try:
            return await function(*args)
        finally:
            await default_async_client().aclose()

    return asyncio.run(asynchronous()) if inspect.iscoroutinefunction(function) else function(*args)


def test_example_1_direct_calls(example: Example, bank: Bank, user: str) -> None:
    assert run(example(1)["process_image"], user, "cat.png") == "processed cat.png"
    assert bank.settled(user) == 1_000 - 11
    [usage] = bank.usage(user)
    assert (usage["input_token"], usage["output_token"], usage["base_cost"], usage["profit"]) == (
        10,
        40,
        10,
        1,
    )


def test_example_2_service_functions(example: Example, bank: Bank, user: str) -> None:
    assert (
        run(example(2)["generate_text"], user, "a prompt of 24 characters") == "a prompt of 24 characters" * 3
    )
    # 75 characters are 8 output tokens, a base cost of 2.
    assert bank.settled(user) == Decimal("997.8")
    [usage] = bank.usage(user)
    assert (usage["input_token"], usage["output_token"], usage["model"]) == (3, 8, "gemini-pro")


def test_example_3_the_wrapper(example: Example, bank: Bank, user: str) -> None:
    translate = example(3)["translate_text"]
    result = run(translate, {"user_id": user, "text": "Hello, world!", "target_language": "es"})
    assert result["translated"] == "es: Hello, world!"
    # 17 characters are 2 output tokens: 2 / 4 * 1.1.
    assert bank.settled(user) == Decimal("999.45")
    assert [item["output_token"] for item in bank.usage(user)] == [2]


def test_example_4_a_free_feature(example: Example, bank: Bank, user: str) -> None:
    result = run(example(4)["get_public_data"], {"user_id": user, "query": "search-term"})
    assert result == {"data": ["search-term"]}
    assert bank.settled(user) == 1_000
    assert bank.usage(user) == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_example_runs_on_an_empty_wallet(example: Example, bank: Bank, package: str, number: int) -> None:
    names = example(number)
    user = bank.wallet(package, 0)
    calls: dict[int, tuple[Any, ...]] = {
        1: (names.get("process_image"), user, "cat.png"),
        2: (names.get("generate_text"), user, "a prompt"),
        3: (names.get("translate_text"), {"user_id": user, "text": "Hello", "target_language": "es"}),
    }
    with pytest.raises(InsufficientTokensError if number == 3 else RuntimeError, match="Insufficient tokens"):
        run(*calls[number])
    assert bank.usage(user) == []
