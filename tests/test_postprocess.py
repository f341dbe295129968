"""What postprocessing takes out of an answer, what it must leave alone, and that pieces change nothing."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuqa.config.pipeline import PostprocessConfig
from gpuqa.pipeline.postprocess import Postprocessor, postprocess

NOTHING = PostprocessConfig(strip_thinking=False, strip_headings=False, one_line=False)
THINKING = PostprocessConfig(strip_thinking=True, strip_headings=False, one_line=False)
HEADINGS = PostprocessConfig(strip_thinking=False, strip_headings=True, one_line=False)
ONE_LINE = PostprocessConfig(strip_thinking=False, strip_headings=False, one_line=True)
ALL = PostprocessConfig()

PIECES = ["<think>", "</think>", "<", "</", "think>", "#", "##", " ", "\t", "\n", "\r\n", "\u2028", "a", "答", "<b>"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=16)  # tokens of a model: marks may come whole or in parts
CONFIGS = st.builds(PostprocessConfig, st.booleans(), st.booleans(), st.booleans())


def sent(pieces: list[str], config: PostprocessConfig, in_thought: bool = False) -> list[str]:
    """What goes out after each piece, and at last."""
    cleaner = Postprocessor(config, in_thought)
    return [*map(cleaner.feed, pieces), cleaner.finish()]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("<think>\n\n</think>\n\n答案", "答案", id="an empty thought"),
        pytest.param("<think>想\n一想</think>答案", "答案", id="a thought of several lines"),
        pytest.param("前<think>想\n一想</think>后", "前后", id="a thought of several lines within an answer"),
        pytest.param("前<think>一</think>中<think>二</think>后", "前中后", id="two thoughts, each by itself"),
        pytest.param("答案<think>没有想完", "答案", id="an unfinished thought runs to the end"),
        pytest.param("<think>没有想完", "", id="nothing but an unfinished thought"),
        pytest.param("<think>a<think>b</think>c</think>答案", "答案", id="a thought within a thought"),
        pytest.param("<think>没有 <think> 了</think>答案", "答案", id="a thought that speaks of the mark"),
        pytest.param("\n</think>\n\n答案", "答案", id="an end mark without a thought"),
        pytest.param("I think <b>so</b>", "I think <b>so</b>", id="other words and other tags stay"),
    ],
)
def test_thinking_is_taken_out(text: str, kept: str) -> None:
    assert postprocess(text, THINKING) == kept


@pytest.mark.parametrize(("text", "kept"), [("想好了</think>答案", "答案"), ("没有想完", ""), ("一<think>二</think>三", "三")])
def test_a_thought_that_the_prompt_had_opened_is_taken_out_too(text: str, kept: str) -> None:
    assert postprocess(text, THINKING, in_thought=True) == kept


@pytest.mark.parametrize(
    ("text", "strings", "kept"),
    [
        pytest.param("答案。\n问：下一个", ["\n问："], "答案。", id="the string is no part of the answer"),
        pytest.param("答案。\n问", ["\n问："], "答案。\n问", id="its beginning alone is"),
        pytest.param("一 END 二 END", ["END"], "一", id="the first of two"),
        pytest.param("abcd", ["abcd", "bc"], "a", id="of two that overlap the one that is complete first"),
        pytest.param("abc", ["c", "bc"], "a", id="of two that are complete at once the longer one"),
        pytest.param("END", ["END"], "", id="nothing before it"),
        pytest.param("<think>一 END</think>二", ["END"], "", id="in a thought, too"),
        pytest.param("aab", ["ab"], "a", id="a beginning that begins anew"),
    ],
)
def test_an_answer_ends_before_a_stop_string(text: str, strings: list[str], kept: str) -> None:
    assert postprocess(text, THINKING, stop_strings=strings) == kept


STRINGS = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3)


@given(st.lists(st.text("ab ", max_size=3), max_size=8), STRINGS)
def test_a_stop_string_ends_text_in_pieces_where_it_ends_the_whole(pieces: list[str], strings: list[str]) -> None:
    text = "".join(pieces)
    ends = sorted((text.find(string) + len(string), text.find(string)) for string in strings if string in text)
    cleaner = Postprocessor(NOTHING, stop_strings=strings)
    out = [*map(cleaner.feed, pieces), cleaner.finish()]
    assert "".join(out) == postprocess(text, NOTHING, stop_strings=strings) == (text[: ends[0][1]] if ends else text).strip()


def test_text_that_no_stop_string_begins_with_goes_out_at_once() -> None:
    cleaner = Postprocessor(NOTHING, stop_strings=["END", "停"])
    assert [cleaner.feed(piece) for piece in ("一E", "二", "EN", "F", "停三", "四")] == ["一", "E二", "", "ENF", "", ""]
    assert cleaner.finish() == ""


@given(TEXTS, CONFIGS)
def test_thoughts_that_begin_and_end_go_with_all_that_is_in_them(texts: list[str], config: PostprocessConfig) -> None:
    """Against the one-line definition, which no stream can keep to where an end mark lacks its beginning."""
    text = "".join(texts)
    without = re.sub(r"<think>.*?(?:</think>|\Z)", "", text, flags=re.S)
    if "</think>" not in without:
        assert postprocess(text, THINKING) == without.strip()
        assert not config.strip_thinking or postprocess(text, config) == postprocess(without, config)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("# 标题\n正文", "标题\n正文", id="a heading keeps its words"),
        pytest.param("正文\n###### 标题\n  ## 又一个", "正文\n标题\n又一个", id="in the middle, indented, up to six marks"),
        pytest.param("#include <cuda.h>\n#pragma unroll", "#include <cuda.h>\n#pragma unroll", id="C directives"),
        pytest.param("####### 七个", "####### 七个", id="seven marks are no heading"),
        pytest.param("C# 与 a # b", "C# 与 a # b", id="marks within a line stay"),
        pytest.param("##\n正文", "##\n正文", id="marks without words do not swallow the line break"),
    ],
)
def test_heading_marks_are_taken_out(text: str, kept: str) -> None:
    assert postprocess(text, HEADINGS) == kept


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x0b", "\x0c", "\x85", " \n\n\t \n "])
def test_every_line_break_with_its_blanks_becomes_one_space(line_break: str) -> None:
    assert postprocess(f"第一行{line_break}第二行{line_break}", ONE_LINE) == "第一行 第二行"


@given(st.text(alphabet=st.one_of(st.sampled_from("ab# \n\r\t\u2028\u0085<>"), st.characters())))
def test_one_line_keeps_every_visible_character_and_no_line_break(text: str) -> None:
    found = postprocess(text, ONE_LINE)
    assert found == found.strip()
    assert not set(found) & set("\n\r\u2028\u2029\x0b\x0c\x85")
    assert "".join(found.split()) == "".join(text.split())


def test_blanks_within_a_line_are_left_alone() -> None:
    assert postprocess("  a  b\tc  ", ALL) == "a  b\tc"


@pytest.mark.parametrize("text", ["<think>想</think># 标题\n\n正文", "# 标题\n<think>想"])
def test_nothing_but_the_margins_changes_when_nothing_is_asked_for(text: str) -> None:
    assert postprocess(f" \n{text}\n ", NOTHING) == text


def test_the_steps_work_together_and_are_all_on_by_default() -> None:
    assert postprocess("<think>\n# 想\n</think>\n\n## 定义\nwarp 是\n\n32 个线程\n", ALL) == "定义 warp 是 32 个线程"


def test_a_heading_that_follows_a_thought_loses_its_mark_too() -> None:
    assert postprocess("<think>想</think># 定义", ALL) == "定义"


# ---------------------------------------------------------------------------------------------------------- in pieces


@given(TEXTS, CONFIGS, st.booleans(), st.lists(st.integers(0, 60)))
def test_an_answer_in_pieces_adds_up_to_the_answer_wherever_it_is_cut(
    texts: list[str], config: PostprocessConfig, in_thought: bool, cuts: list[int]
) -> None:
    text = "".join(texts)
    whole = postprocess(text, config, in_thought)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in itertools.pairwise(places)]
    for cut in (pieces, texts, list(text)):
        assert "".join(sent(cut, config, in_thought)) == whole


@given(st.text(), CONFIGS, st.data())
def test_any_text_may_be_cut_in_two(text: str, config: PostprocessConfig, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    assert "".join(sent([text[:cut], text[cut:]], config)) == postprocess(text, config)


ODD = [*PIECES, "\x1c", "\x85", "\x0b", "\u3000", "\u2029", "###### "]  # str.splitlines knows more line ends than we do


@given(st.lists(st.sampled_from(ODD), max_size=12), CONFIGS, st.booleans())
def test_a_whole_text_is_cleaned_as_a_stream_of_it_would_be(
    texts: list[str], config: PostprocessConfig, in_thought: bool
) -> None:
    text = "".join(texts)
    assert postprocess(text, config, in_thought) == "".join(sent([text], config, in_thought))


def test_nothing_is_held_back_that_is_certain() -> None:
    pieces = ["<thi", "nk>想", "</think>", "\n#", "# 定", "义", "\n", "\n", "x<", "y", " ", "z ", "\n"]
    out = ["", "", "", "", "定", "义", "", "", " x", "<y", "", " z", "", ""]
    assert sent(pieces, ALL) == out


def test_plain_text_goes_out_as_it_comes() -> None:
    pieces = ["warp", " 是", " 32", " 个线程", "。"]
    assert sent(pieces, ALL) == [*pieces, ""]
