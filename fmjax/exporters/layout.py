"""Text of configs and code; numbers are written so that they read back as they are."""

from collections.abc import Iterable, Mapping


def commented(remarks: Iterable[str], text: str) -> str:
    """Text below its remarks, one comment line each.

    >>> print(commented(["nearest"], "steps: 10"))
    # nearest
    steps: 10
    """
    return "".join(f"# {remark}\n" for remark in remarks) + text


def yaml(table: Mapping[str, object], indent: str = "") -> str:
    """A table, perhaps with tables in it, as YAML.

    >>> print(yaml({"optimizer": {"learning_rate": 1e-05}}))
    optimizer:
      learning_rate: 1.0e-05
    """
    return "\n".join(f"{indent}{key}:{_value(value, indent)}" for key, value in table.items())


def _value(value: object, indent: str) -> str:
    if isinstance(value, Mapping):
        return "\n" + yaml(value, indent + "  ")
    if isinstance(value, float) and "." not in repr(value):
        return " " + repr(value).replace("e", ".0e")  # YAML 1.1 takes 1e-05 for a string
    return f" {value}"


def call(name: str, arguments: Mapping[str, object]) -> str:
    """A call with keyword arguments as Python code, one a line.

    >>> print(call("Duration", {"value": 10, "unit": "steps"}))
    Duration(
        value=10,
        unit='steps',
    )
    """
    return f"{name}(\n" + "".join(f"    {key}={value!r},\n" for key, value in arguments.items()) + ")"
