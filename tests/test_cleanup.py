"""What a prompt variant's cleanup takes out of an answer, and what it must leave alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuqa.cleanup import clean
from gpuqa.config import CleanupConfig

NOTHING = CleanupConfig(strip_thinking=False, strip_headings=False, one_line=False)
THINKING = CleanupConfig(strip_thinking=True, strip_headings=False, one_line=False)
HEADINGS = CleanupConfig(strip_thinking=False, strip_headings=True, one_line=False)
ONE_LINE = CleanupConfig(strip_thinking=False, strip_headings=False, one_line=True)
ALL = CleanupConfig()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("<think>\n\n</think>\n\n答案", "答案", id="an empty thought"),
        pytest.param("<think>想\n一想</think>答案", "答案", id="a thought of several lines"),
        pytest.param("前<think>想\n一想</think>后", "前后", id="a thought of several lines within an answer"),
        pytest.param("前<think>一</think>中<think>二</think>后", "前中后", id="two thoughts, each by itself"),
        pytest.param("答案<think>没有想完", "答案", id="an unfinished thought runs to the end"),
        pytest.param("<think>没有想完", "", id="nothing but an unfinished thought"),
        pytest.param("想好了</think>答案", "答案", id="a thought that the prompt had opened"),
        pytest.param("<think>a<think>b</think>c</think>答案", "答案", id="a thought within a thought"),
        pytest.param("I think <b>so</b>", "I think <b>so</b>", id="other words and other tags stay"),
    ],
)
def test_thinking_is_taken_out(text: str, kept: str) -> None:
    assert clean(text, THINKING) == kept


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
    assert clean(text, HEADINGS) == kept


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x0b", "\x0c", "\x85", " \n\n\t \n "])
def test_every_line_break_with_its_blanks_becomes_one_space(line_break: str) -> None:
    assert clean(f"第一行{line_break}第二行{line_break}", ONE_LINE) == "第一行 第二行"


@given(st.text(alphabet=st.one_of(st.sampled_from("ab# \n\r\t\u2028\u0085<>"), st.characters())))
def test_one_line_keeps_every_visible_character_and_no_line_break(text: str) -> None:
    found = clean(text, ONE_LINE)
    assert found == found.strip()
    assert not set(found) & set("\n\r\u2028\u2029\x0b\x0c\x85")
    assert "".join(found.split()) == "".join(text.split())


def test_blanks_within_a_line_are_left_alone() -> None:
    assert clean("  a  b\tc  ", ALL) == "a  b\tc"


@pytest.mark.parametrize("text", ["<think>想</think># 标题\n\n正文", "# 标题\n<think>想"])
def test_nothing_but_the_margins_changes_when_nothing_is_asked_for(text: str) -> None:
    assert clean(f" \n{text}\n ", NOTHING) == text


def test_the_steps_work_together_and_are_all_on_by_default() -> None:
    assert clean("<think>\n# 想\n</think>\n\n## 定义\nwarp 是\n\n32 个线程\n", ALL) == "定义 warp 是 32 个线程"


def test_a_heading_that_follows_a_thought_loses_its_mark_too() -> None:
    assert clean("<think>想</think># 定义", ALL) == "定义"
