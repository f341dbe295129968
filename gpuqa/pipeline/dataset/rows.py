"""A row becomes a question, whatever its fields are called. Nothing that would be asked is left out without a word."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuqa.config.measurement import DatasetConfig, References
from gpuqa.pipeline.dataset.chats import NamedText, last_turns
from gpuqa.pipeline.dataset.files import ONE_LIST, Row, lists_of_rows
from gpuqa.pipeline.dataset.refusals import described, is_blank, listed, refuse, refuse_unsent, says_something
from gpuqa.records import Question


@dataclass(frozen=True, slots=True)
class Shape:
    """What the fields of a row are called."""

    question: str
    answer: str
    more: str = ""  # more of the question, on a line below it; may be absent or empty
    id: str = "id"

    @property
    def names(self) -> set[str]:
        """All of them."""
        return {self.question, self.answer, self.id, *filter(None, [self.more])}

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row has the fields that this shape needs."""
        return self.question in fields and self.answer in fields


SHAPES = (
    Shape("instruction", "output", more="input"),  # Alpaca
    Shape("question", "answer"),
    Shape("prompt", "completion"),
    Shape("query", "response"),
    Shape("input", "output"),
    Shape("问题", "答案"),
)
CHATS = ("messages", "conversations")  # a list of turns
UNSENT_FIELDS = {  # by their names, what they hold
    "system": "system",
    "system_prompt": "system",
    "history": "history",
    **dict.fromkeys(("context", "passage", "背景", "上下文"), "context"),
    **dict.fromkeys(("options", "choices", "选项"), "options"),
}
KNOWN = [
    *dict.fromkeys(name for shape in SHAPES for name in (shape.question, shape.answer, shape.more) if name),
    *CHATS,
    *UNSENT_FIELDS,
]
CHOOSE = "name the fields: 'dataset.fields={question: NAME, answer: NAME}'"
ACCEPTED = (
    "a row needs "
    + ", or ".join(f'"{shape.question}" and "{shape.answer}"' for shape in SHAPES)
    + f', or "messages" of a user and an assistant; for others {CHOOSE}'
)


@dataclass(frozen=True, slots=True)
class Columns:
    """How a configuration wants rows to be read."""

    shape: Shape | None = None  # None: by the names that the rows have
    references: References | None = None
    ignore: Sequence[str] = ()

    @classmethod
    def of(cls, config: DatasetConfig) -> Columns:
        """What a dataset's configuration says about its rows."""
        question, answer = config.fields.question, config.fields.answer
        id_name = lower(config.fields.id or "id")
        shape = Shape(lower(question), lower(answer), id=id_name) if question and answer else None
        return cls(shape, config.references, config.ignore)


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the texts of a row stand: their names and their values, unchecked."""

    question: list[NamedText]  # joined by line breaks
    answer: NamedText
    used: set[str]  # fields of the row


def to_question(row: Row, number: int, columns: Columns) -> tuple[Question, list[str]]:
    """One row of any format, and the names of its fields that nothing was made of.

    Raises:
        UserError: names the row, the field and what is wrong with it.
    """
    fields = by_name(row)
    parts = parts_of(row, fields, columns)
    for name, kind in UNSENT_FIELDS.items():
        if name not in parts.used and says_something(fields.get(name)):
            refuse_unsent(row, kind, f"{name} is {described(fields[name])}", columns.ignore)
    id_name = columns.shape.id if columns.shape else "id"
    first, *others = references_of(row, *parts.answer, columns)
    question = Question(
        id=id_of(row, id_name, fields.get(id_name), number),
        text="\n".join(text_of(row, name, value) for name, value in parts.question),
        reference=first,
        other_references=tuple(others),
        mean_of_references=bool(others) and columns.references is References.mean,
    )
    return question, [name for name in fields if name not in parts.used | {id_name, *UNSENT_FIELDS}]


def lower(name: str) -> str:
    """A name as rows are searched for it; half a surrogate pair in it becomes a question mark, so that it can be printed."""
    return name.strip().lower().encode("utf-8", "replace").decode()


def by_name(row: Row) -> dict[str, Any]:
    """The fields of a row by their names in lower case."""
    if not isinstance(row.content, dict):
        refuse(row, f"is {described(row.content)}, not an object; {ACCEPTED}")
    fields: dict[str, Any] = {}
    for name, value in row.content.items():
        if (key := lower(str(name))) in fields:
            refuse(row, f"has the field {key!r} twice, in upper and in lower case; keep one of them")
        fields[key] = value
    return fields


def parts_of(row: Row, fields: Mapping[str, Any], columns: Columns) -> Parts:
    """The texts of a row by the configured names, else by those of the one shape that it has."""
    if columns.shape is not None:
        refuse_absent(row, columns.shape, fields)
        return shape_parts(columns.shape, fields)
    shapes = [shape for shape in SHAPES if shape.fits(fields)]
    shapes = [shape for shape in shapes if not any(shape.names < other.names for other in shapes)]
    chats = [name for name in CHATS if name in fields]
    readings = [*chats, *(f"{shape.question} and {shape.answer}" for shape in shapes)]
    if len(readings) > 1:
        refuse(row, f"can be read in {len(readings)} ways: by {', or by '.join(readings)}; {CHOOSE}")
    if not readings:
        refuse(row, unknown(row, fields))
    if not chats:
        return shape_parts(shapes[0], fields)
    question, answer = last_turns(row, chats[0], fields[chats[0]], columns.ignore)
    return Parts([question], answer, set(chats))


def refuse_absent(row: Row, shape: Shape, fields: Mapping[str, Any]) -> None:
    """Raise a UserError about a row that lacks a configured field."""
    keys = {"question": shape.question, "answer": shape.answer} | ({"id": shape.id} if shape.id != "id" else {})
    for key, name in keys.items():
        if name not in fields:
            refuse(row, f"has no field {name!r}, which dataset.fields.{key} names; its fields are {listed(fields, [name])}")


def shape_parts(shape: Shape, fields: Mapping[str, Any]) -> Parts:
    """The texts of a row of one shape."""
    names = [shape.question]
    if shape.more and not is_blank(fields.get(shape.more)):
        names = [shape.more] if fields[shape.question] == "" else [shape.question, shape.more]
    return Parts([(name, fields[name]) for name in names], (shape.answer, fields[shape.answer]), shape.names)


def references_of(row: Row, name: str, value: Any, columns: Columns) -> list[str]:
    """The reference answers of a row: one text, or a list of texts if the configuration says how several count."""
    if not isinstance(value, list) or not value:
        return [text_of(row, name, value)]
    texts = [text_of(row, f"{name}[{place}]", text) for place, text in enumerate(value)]
    if len(texts) > 1 and columns.references is None:
        refuse(row, f"{name} holds {len(texts)} references; say which score counts: dataset.references=best or mean")
    return texts


def id_of(row: Row, name: str, value: Any, number: int) -> str:
    """The id of a row: its own, or its number where it has none."""
    if is_blank(value):
        return str(number)
    if isinstance(value, str):
        return text_of(row, name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(row, f"{name} is {described(value)}; it must be text, a number or null")
    return str(value)


def text_of(row: Row, name: str, value: Any) -> str:
    """A text that says something and can be sent, without the blanks around it."""
    if not isinstance(value, str) or not value.strip():
        refuse(row, f"{name} is {described(value)}; it must be text")
    if any("\ud800" <= char <= "\udfff" for char in value):
        refuse(row, f"{name} holds half of a surrogate pair, which cannot be sent: {value!r:.60}")
    return value.strip()


def unknown(row: Row, fields: Mapping[str, Any]) -> str:
    """What is wrong with a row of no shape: what is missing beside what is there, and which names may be meant."""
    if asked := {shape.question: shape.answer for shape in SHAPES if shape.question in fields}:
        return half(fields, "answer", list(asked), asked.values())
    if answered := {shape.question: shape.answer for shape in SHAPES if shape.answer in fields}:
        return half(fields, "question", list(answered.values()), answered)
    if lists := lists_of_rows(row.content):
        return f"is an object that holds {' and '.join(lists)}; {ONE_LIST}"
    return f"has the fields {listed(fields, KNOWN)}, but {ACCEPTED}"


def half(fields: Mapping[str, Any], missing: str, here: Collection[str], looked: Iterable[str]) -> str:
    """What is wrong with a row that has a question and no answer, or the other way round."""
    there, wanted = " and ".join(map(repr, dict.fromkeys(here))), " or ".join(map(repr, looked))
    others = listed([name for name in fields if name not in here], KNOWN)
    return f"has {there} and no {missing}: looked for {wanted}; its other fields are {others}; {CHOOSE}"
