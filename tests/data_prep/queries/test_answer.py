"""Tests of data_prep/queries/answer.py."""

import dataclasses
import gzip
import json
import re
import unicodedata

import hypothesis
import hypothesis.strategies as st
import pytest

from data_prep.llm.words import num_words
from data_prep.queries.answer import QueryFault, clean
from data_prep.queries.prompt import load_prompts, shipped_prompts

PROMPTS = {prompt.query_type: prompt for prompt in load_prompts(shipped_prompts())}
PASSAGE = (
    "Mirror bracing cut the sway of the Halden footbridge by half. Engineers had fitted dampers to "
    "the deck in 2011, but walkers still felt it move when more than two hundred people crossed it "
    "at the same time. The new braces were bolted on in nine days."
)
Q = "What reduced the swaying of the Halden footbridge?"
C = "Braces halved the sway of the Halden footbridge."
T = "How the Halden Footbridge Was Stopped From Swaying"
K = "pedestrian bridge vibration, bracing, dampers"
W = "halden bridge wobble fix"

# (query type, answer, query)
WHOLE = [
    ("question", Q, Q),
    ("question", f"  {Q} \n", Q),
    ("question", f'"{Q}"', Q),
    ("question", f"“{Q}”", Q),
    ("question", f"'{Q}'", Q),
    ("question", f'"“{Q}”"', Q),
    ("question", f"«\u00a0{Q}\u00a0»", Q),
    ("question", f"„{Q}“", Q),
    ("question", f"`{Q}`", Q),
    ("question", f"**{Q}**", Q),
    ("question", f"*{Q}*", Q),
    ("question", f"***{Q}***", Q),
    ("question", f"__{Q}__", Q),
    ("question", f"# {Q}", Q),
    ("question", f"> {Q}", Q),
    ("question", f"- {Q}", Q),
    ("question", f"• {Q}", Q),
    ("question", f"1. {Q}", Q),
    ("question", f"1) {Q}", Q),
    ("question", f"(1) {Q}", Q),
    ("question", f"Question: {Q}", Q),
    ("question", f"question:{Q}", Q),
    ("question", f"Question 1: {Q}", Q),
    ("question", f"**Question:** {Q}", Q),
    ("question", f"**Question**: {Q}", Q),
    ("question", f"**Question: {Q}**", Q),
    ("question", f"### Question\n\n{Q}", Q),
    ("question", f'Question: "{Q}"', Q),
    ("question", f'1. **Question:** "{Q}"', Q),
    ("question", f"Q: {Q}\nA: The braces did.", Q),
    ("question", f"[Question]: {Q}", Q),
    ("question", f"Possible question: {Q}", Q),
    ("question", f"Here is a question that the passage answers:\n\n{Q}", Q),
    ("question", f"Here's a question based on the passage: {Q}", Q),
    ("question", f"Here’s one: {Q}", Q),
    ("question", f"Here is a possible question\n\n{Q}", Q),
    ("question", f"Sure! Here is a question:\n{Q}", Q),
    ("question", f"Sure, here's a question someone might ask: {Q}", Q),
    ("question", f"Certainly! {Q}", Q),
    ("question", f"Based on the passage, here is one question:\n\n{Q}", Q),
    ("question", f"Based on the passage, a possible question is: {Q}", Q),
    ("question", f"A question that this passage answers could be:\n\n{Q}", Q),
    ("question", f"One might ask: {Q}", Q),
    ("question", f"Someone might ask: {Q}", Q),
    ("question", f"I'd be happy to help! Here is a question:\n\n{Q}", Q),
    ("question", f"{Q}\n\nThis question asks for the cause of the change.", Q),
    ("question", f"{Q} (Answer: mirror bracing)", Q),
    ("question", f"{Q} Answer: Mirror bracing.", Q),
    ("question", f"{Q}\n\n(Note: I kept the name of the bridge.)", Q),
    ("question", f"1. {Q}\n2. When were the braces fitted?\n3. Who fitted them?", Q),
    ("question", f"- {Q}\n- When were the braces fitted?", Q),
    ("question", f"```\n{Q}\n```", Q),
    ("question", f"```text\n{Q}\n```", Q),
    ("question", f"---\n{Q}\n---", Q),
    ("question", f"<think>\nThe passage is about a bridge.\nOne line.\n</think>\n\n{Q}", Q),
    ("question", f"The passage is about a bridge.\n</think>\n\n{Q}", Q),
    ("question", f"<think>\n\n</think>\n\n{Q}", Q),
    ("question", f"<thought>It is about a bridge.</thought>{Q}", Q),
    ("question", f"[THINK]It is about [a] bridge.[/THINK]{Q}", Q),
    ("question", f"◁think▷A bridge.◁/think▷{Q}", Q),
    ("question", f"<seed:think>A bridge.</seed:think>{Q}", Q),
    ("question", f"<reflection>A bridge?</reflection>\n{Q}", Q),
    (
        "question",
        "<|channel|>analysis<|message|>A bridge.<|end|><|start|>assistant<|channel|>final"
        f"<|message|>{Q}<|return|>",
        Q,
    ),
    ("question", f"analysisThe user wants a question.assistantfinal{Q}", Q),
    ("question", f"The answer is\n$$\\boxed{{\\text{{{Q}}}}}$$", Q),
    ("question", f"<answer>{Q}</answer>", Q),
    ("question", "what does [reflection] do in java", "what does [reflection] do in java"),
    ("question", "how to read a [THINK] tag", "how to read a [THINK] tag"),
    ("question", f"<|begin_of_box|>{Q}<|end_of_box|>", Q),
    ("question", f"Frage: {Q}", Q),
    ("question", f"**Pregunta:** {Q}", Q),
    ("question", f"问题：{Q}", Q),
    ("question", f"assistant\n\n{Q}", Q),
    ("question", f"<|start_header_id|>assistant<|end_header_id|>\n\n{Q}<|eot_id|>", Q),
    ("question", f"{Q}</s>", Q),
    ("question", f"{Q} [/INST] Mirror bracing.", Q),
    ("question", f"<question>{Q}</question>", Q),
    ("question", f"<question>\n{Q}\n</question>", Q),
    ("question", json.dumps({"question": Q}), Q),
    ("question", f"```json\n{json.dumps({'id': 1, 'question': Q}, indent=1)}\n```", Q),
    ("question", "What reduced\tthe  swaying of\u2003the Halden footbridge?\u200b\ufeff", Q),
    ("question", f"Passage: Mirror bracing cut the sway.\nQuestion: {Q}", Q),
    ("question", f'"{Q}', Q),
    ("claim", f"Claim: {C}", C),
    ("claim", f'"{C}".', C),
    ("claim", f'"{C[:-1]}".', C),
    ("claim", f"**Claim:** {C} (11 words)", C),
    ("claim", f"The claim is: {C}", C),
    ("claim", "All *E. coli* strains are *rods*.", "All E. coli strains are rods."),
    ("title", f"Title: {T}", T),
    ("title", f"**{T}**", T),
    ("title", f"# {T}\n\nThe bridge at Halden ...", T),
    ("title", f'Title - "{T}"', T),
    ("title", f"《{T}》", T),
    ("title", "\"Too Big\" and \"Too Old\"", "\"Too Big\" and \"Too Old\""),
    ("title", "Halden: A Bridge Comes to Rest", "Halden: A Bridge Comes to Rest"),
    ("keywords", K, K),
    ("keywords", f"Keywords: {K}", K),
    ("keywords", f"**Keywords:** {K}", K),
    ("keywords", "1. pedestrian bridge vibration\n2. bracing\n3. dampers", K),
    ("keywords", "Here are some:\n\n* pedestrian bridge vibration\n* bracing\n* dampers", K),
    ("keywords", "- pedestrian bridge vibration,\n- bracing,\n- dampers.\n\nThese fit best.", K),
    ("keywords", '"pedestrian bridge vibration", "bracing", "dampers"', K),
    ("keywords", json.dumps(K.split(", ")), K),
    ("keywords", json.dumps({"keywords": K.split(", ")}), K),
    ("keywords", f"[{K}]", K),
    ("keywords", f"{K},", K),
    ("web_search_few_shot", f"Search query: {W}", W),
    ("web_search_few_shot", f"**Query**: {W}", W),
    ("web_search_few_shot", f"Web search query - {W}", W),
    ("web_search_few_shot", f"Query #1: {W}\nQuery #2: halden bridge", W),
    ("web_search_zero_shot", f'Someone might type "{W}"', W),
    ("web_search_zero_shot", f'A person might search for: "{W}"', W),
    ("web_search_zero_shot", f"→ {W}", W),
    ("web_search_zero_shot", f"`{W}`", W),
]  # fmt: skip


@pytest.mark.parametrize(("query_type", "answer", "query"), WHOLE)
def test_the_query_in_an_answer(query_type, answer, query):
    assert clean(answer, PROMPTS[query_type], PASSAGE, "stop") == (query, "")


# Queries that look like what is taken off or refused elsewhere.
HARMLESS = [
    "i can't sleep at night what helps",
    "i can't write to usb stick",
    "i don't have a social security number",
    "sorry sorry super junior lyrics",
    "sorry, wrong number cast",
    "sorry this page isn't available instagram",
    "i'm sorry, i love you korean drama",
    "i am sorry for your loss messages",
    "title tag length seo",
    "<title> tag length",
    "query string in url",
    "ask a lawyer for free",
    "what is the width of this: css or html",
    "passage of the affordable care act",
    "how does the passage of time affect memory",
    "width of the passage between islay and jura",
    "best monitor 27\"",
    "what does **kwargs do in python",
    "select * from table where 2 * 3 * 4",
    "__init__ vs __new__",
    "c# async await",
    "3.5 mm jack to usb c",
    "16:9 aspect ratio resolutions",
    "std::vector<int> erase while iterating",
    "'90s music hits",
    "ok google not working",
    "how to wrap text in the text field css",
    "here be dragons meaning",
    "\"foo\" vs \"bar\" in sql",
    "cats' whiskers and dogs' noses",
    "what's new in python 3.11",
    "note taking app (free)",
    "answer to life the universe and everything",
    "search engine optimization tips",
    "what counts as a claim in patent law",
    "is hell (kitchen) still on air",
    "none of the above in elections",
    "-40 celsius in fahrenheit",
    "f(x) = x^2 derivative",
]  # fmt: skip


@pytest.mark.parametrize("query", HARMLESS)
def test_what_only_looks_like_talk_stays(query):
    assert clean(query, PROMPTS["web_search_few_shot"], PASSAGE, "stop") == (query, "")


# (query type, answer, finish reason, reason)
REFUSED = [
    ("question", "", "stop", QueryFault.EMPTY),
    ("question", " \n\n", "stop", QueryFault.EMPTY),
    ("question", '""', "stop", QueryFault.EMPTY),
    ("question", "...", "stop", QueryFault.EMPTY),
    ("question", "<think>a bridge", "stop", QueryFault.EMPTY),
    ("question", "[THINK]a bridge", "stop", QueryFault.EMPTY),
    ("question", "<|channel|>analysis<|message|>a bridge", "stop", QueryFault.EMPTY),
    ("question", "К сожалению, я не могу помочь с этим.", "stop", QueryFault.REFUSED),
    ("question", "Niestety nie mogę odpowiedzieć na to pytanie.", "stop", QueryFault.REFUSED),
    ("question", "Malheureusement, je ne peux pas vous aider.", "stop", QueryFault.REFUSED),
    ("question", "申し訳ありませんが、お手伝いできません。", "stop", QueryFault.REFUSED),
    ("question", "<|eot_id|>", "stop", QueryFault.EMPTY),
    ("question", "🤷", "stop", QueryFault.EMPTY),
    ("question", "Question:", "stop", QueryFault.NO_QUERY),
    ("question", "Here is a question that the passage answers:", "stop", QueryFault.NO_QUERY),
    ("question", "N/A", "stop", QueryFault.NO_QUERY),
    ("title", "[Title]", "stop", QueryFault.NO_QUERY),
    ("question", "What does the passage say about bridges?", "stop", QueryFault.NO_QUERY),
    ("question", "According to the text, what was fitted in 2011?", "stop", QueryFault.NO_QUERY),
    ("question", "What is the main topic of this passage?", "stop", QueryFault.NO_QUERY),
    ("question", "What event is described in the article?", "stop", QueryFault.NO_QUERY),
    ("question", "What does the author suggest about dampers?", "stop", QueryFault.NO_QUERY),
    ("question", "What follows from the text above for bridges?", "stop", QueryFault.NO_QUERY),
    ("question", "Please provide the passage you want me to use.", "stop", QueryFault.NO_QUERY),
    ("question", "There is no passage provided, so nothing to ask.", "stop", QueryFault.NO_QUERY),
    ("claim", "The passage states that braces were added.", "stop", QueryFault.NO_QUERY),
    ("question", "I cannot create content of that kind.", "stop", QueryFault.REFUSED),
    ("question", "I can't help with that.", "stop", QueryFault.REFUSED),
    ("question", "I can’t provide a question on this. Is there more?", "stop", QueryFault.REFUSED),
    ("question", "I'm sorry, but I can't assist with that request.", "stop", QueryFault.REFUSED),
    ("question", "I am unable to generate a question from this.", "stop", QueryFault.REFUSED),
    ("question", "I apologize, but the topic is sensitive.", "stop", QueryFault.REFUSED),
    ("question", "As an AI language model, I do not ask.", "stop", QueryFault.REFUSED),
    ("question", "Unfortunately, there is too little to go on.", "stop", QueryFault.REFUSED),
    ("question", "抱歉，我无法回答这个问题。", "stop", QueryFault.REFUSED),
    ("question", "What reduced the", "content_filter", QueryFault.REFUSED),
    ("question", "What reduced the swaying of", "length", QueryFault.CUT_OFF),
    ("question", "A question:\n\nWhat reduced the swaying of", "length", QueryFault.CUT_OFF),
    ("question", "<think>It is about a bridge.", "length", QueryFault.CUT_OFF),
    ("question", '{"question": "What reduced the', "length", QueryFault.CUT_OFF),
    ("keywords", "bridge, vibration, pedestr", "length", QueryFault.CUT_OFF),
    ("question", "What reduced the swaying", "abort", QueryFault.CUT_OFF),
    ("question", "Why sway?", "stop", QueryFault.TOO_SHORT),
    ("keywords", "Keywords: bridge", "stop", QueryFault.TOO_SHORT),
    ("web_search_few_shot", "why " * 40, "stop", QueryFault.TOO_LONG),
    ("title", "Aaaaaaaah" * 30 + " Bridge", "stop", QueryFault.TOO_LONG),
    ("question", "Did they feel it move when more than two hundred people crossed it?", "stop",
     QueryFault.COPIED),
    ("claim", "ENGINEERS had fitted dampers to the deck, in 2011.", "stop", QueryFault.COPIED),
    ("web_search_few_shot", "mirror bracing cut the sway of the halden", "stop", QueryFault.COPIED),
    ("web_search_few_shot", "recover deleted git branch", "stop", QueryFault.COPIED_EXAMPLE),
]  # fmt: skip


@pytest.mark.parametrize(("query_type", "answer", "finish_reason", "reason"), REFUSED)
def test_why_an_answer_is_no_query(query_type, answer, finish_reason, reason):
    assert reason in set(QueryFault)
    assert clean(answer, PROMPTS[query_type], PASSAGE, finish_reason) == ("", reason)


@pytest.mark.parametrize(
    ("query_type", "answer", "query"),
    [
        ("question", Q, Q),
        ("question", f'"{Q}"', Q),
        ("question", f"{Q}\n\nThis question is about", Q),
        ("question", f"Here is a question:\n{Q}", Q),
        ("keywords", "- bridge vibration\n- bracing\n- damp", "bridge vibration, bracing"),
        ("web_search_few_shot", f"{W}\n\nThe user wants", W),
    ],
)
def test_what_the_end_of_tokens_did_not_hit_is_kept(query_type, answer, query):
    assert clean(answer, PROMPTS[query_type], PASSAGE, "length") == (query, "")


def test_titles_and_keywords_may_share_words_with_the_passage():
    title = "Engineers had fitted dampers to the deck in 2011"
    assert clean(title, PROMPTS["title"], PASSAGE, "stop") == (title, "")


def test_every_shipped_example_is_a_clean_query():
    num_examples = 0
    for prompt in PROMPTS.values():
        for example in prompt.examples:
            assert clean(example.query, prompt, example.passage, "stop") == (example.query, "")
            num_examples += 1
    assert num_examples >= 5 * 8


def localized(query_type, language, **rules):
    prompt = PROMPTS[query_type]
    answer = dataclasses.replace(prompt.answer, **rules)
    return dataclasses.replace(prompt, language=language, answer=answer)


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("", 0),
        ("?!", 0),
        ("one two, three.", 3),
        ("E. coli (K-12)", 3),
        ("什么是量子纠缠？", 3.5),
        ("日本の首都はどこですか", 5.5),
        ("แมวนอนหลับ", 2.25),
        ("대한민국의 수도는 어디인가요?", 3),
        ("भारत की राजधानी", 3),
        ("GPU显存不足", 3),
    ],
)
def test_words_are_counted_in_any_script(text, num):
    assert num_words(text) == num


@pytest.mark.parametrize(
    ("language", "labels", "answer", "query"),
    [
        ("zh", ("问题",), "问题：“X”", "什么减少了人行桥的晃动？"),
        ("zh", ("问题",), "以下是一个问题：\n\nX", "什么减少了人行桥的晃动？"),
        ("ja", ("質問",), "**質問**：「X」", "橋の揺れを減らしたのは何ですか？"),
        ("de", ("Frage",), "Hier ist eine Frage:\n„X“", "Was verringert das Schwanken der Brücke?"),
        ("de", (), "X", "2. Weltkrieg Ende in Europa"),
        ("de", (), "1. X\n2. Weltkrieg Beginn", "Ende des Krieges in Europa"),
        ("fr", ("Question",), "Question : « X »", "Qu'est-ce qui a réduit le balancement ?"),
        ("es", ("Pregunta",), "Aquí tienes una pregunta: X", "¿Qué redujo el balanceo del puente?"),
        ("ar", ("سؤال",), "سؤال: X", "ما الذي قلل من تأرجح الجسر؟"),
        ("ru", ("Вопрос",), "Вопрос: «X»", "Что уменьшило раскачивание моста?"),
        ("fa", (), "*X*", "چه چیزی پل را آرام می\u200cکند؟"),
        ("hi", ("प्रश्न",), "प्रश्न: X", "पुल का हिलना किससे कम हुआ?"),
        ("th", ("คำถาม",), "คำถาม: X", "อะไรช่วยลดการแกว่งของสะพานคนเดิน"),
    ],
)  # fmt: skip
def test_other_languages(language, labels, answer, query):
    prompt = localized("question", language, labels=labels)
    assert clean(answer.replace("X", query), prompt, PASSAGE, "stop") == (query, "")


def test_a_language_brings_its_own_refusals_and_references():
    prompt = localized("question", "pl", refusals=("Nie mogę",), references=("w tym tekście",))
    assert clean("Nie mogę w tym pomóc.", prompt, "", "stop") == ("", QueryFault.REFUSED)
    assert clean("Co opisano W tym tekście o moście?", prompt, "", "stop") == (
        "",
        QueryFault.NO_QUERY,
    )
    english = PROMPTS["question"]
    assert clean("Nie mogę w tym pomóc.", english, "", "stop") == ("Nie mogę w tym pomóc.", "")


def test_copies_are_seen_without_spaces_between_words():
    prompt = localized("question", "zh", max_copied_words=6)
    passage = "哈尔登人行桥的晃动因为安装了新的支撑而减少了一半。"
    copied = "人行桥的晃动因为安装了新的支撑吗？"
    assert clean(copied, prompt, passage, "stop") == ("", QueryFault.COPIED)
    own_words = "哈尔登的行人桥为什么不再摇晃？"
    assert clean(own_words, prompt, passage, "stop") == (own_words, "")


def test_the_longest_run_that_may_be_copied():
    words = [f"w{i}" for i in range(20)]
    passage = " ".join(words)
    prompt = localized("question", "en", max_copied_words=5)
    assert clean(f"what {' '.join(words[3:8])} now", prompt, passage, "stop")[1] == ""
    assert (
        clean(f"what {' '.join(words[3:9])} now", prompt, passage, "stop")[1] == QueryFault.COPIED
    )
    # Words, not letters: "w1" is no copy of a part of "w19".
    prompt = localized("question", "en", max_copied_words=1, min_words=1)
    assert clean("x w1 9", prompt, "x w19", "stop") == ("x w1 9", "")


def written_by_people(folder):
    """Queries, and titles that begin and end with a word."""
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["text"]
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            title = json.loads(line).get("title", "")
            if re.fullmatch(r"[^\W\d_].*[\w.?!)]", title) and "\ufffd" not in title:
                yield title


@pytest.mark.parametrize("name", ["scifact", "nfcorpus", "cranfield"])
def test_what_people_wrote_stays_as_it_is(data_dir, name):
    prompt = localized(
        "claim", "en", min_words=1, max_words=1000, max_chars=10_000, max_copied_words=0
    )
    texts = {
        unicodedata.normalize("NFC", " ".join(text.replace("\ufeff", "").split()))
        for text in written_by_people(data_dir / name)
    }
    assert len(texts) > 1500
    cleaned = {text: clean(text, prompt, "", "stop") for text in texts}
    assert {text: found for text, found in cleaned.items() if found != (text, "")} == {}


FRAGMENTS = [
    '"', "'", "“", "”", "«", "»", "「", "」", "**", "*", "_", "__", "`", "```", "\n", "\n\n", " ",
    ": ", ":", " - ", "- ", "1. ", "2. ", "(1) ", "# ", "> ", "[", "]", "(", ")", "{", "}", ", ",
    ".", "?", "Question", "Query", "Keywords", "Title", "Sure! ", "OK. ", "Here is a query",
    "Someone might ask: ", "<think>", "</think>", "<|eot_id|>", "</s>", "<b>", "</b>", "halden",
    "what is a bridge", "x", "量子纠缠", "แมว", "bracing, dampers", "Answer: yes", "(Note: no)",
    "I'm sorry", "\u200d", "\u200b", "\ud800", "e\u0301", "\u0958", "ﬁ", "İ", "🤷", "\\n",
]  # fmt: skip


@hypothesis.settings(max_examples=500)
@hypothesis.given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
    | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=6).map("".join),
    st.sampled_from(sorted(PROMPTS)),
    st.sampled_from(["stop", "length"]),
    st.sampled_from(["en", "de"]),
)
def test_a_clean_query_is_clean(answer, query_type, finish_reason, language):
    prompt = localized(query_type, language, min_words=1)
    query, reason = clean(answer, prompt, PASSAGE, finish_reason)
    assert bool(query) != bool(reason)
    if query:
        assert clean(query, prompt, PASSAGE, "stop") == (query, "")
        assert query == " ".join(query.split())
        assert unicodedata.is_normalized("NFC", query)
        query.encode()
    else:
        assert reason in set(QueryFault)
