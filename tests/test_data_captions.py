import pytest

from minildm.data import COLOURS, RELATIONS, SHAPES, TASKS, VOCABULARY, Prompt, caption, heldout, parse, prompts
from minildm.data.captions import _known_phrases, _patterns, _phrases
from minildm.data.prompts import COUNTS, HELD_OUT_SHAPES
from minildm.data.vocabulary import THINGS

CAT_AND_HEART = (("cat", 1), ("red heart", 1))


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a cat", Prompt("one object", (("cat", 1),))),
        ("一只猫", Prompt("one object", (("cat", 1),))),
        ("an owl and an ice cream", Prompt("two objects", (("owl", 1), ("ice cream", 1)))),
        ("一只猫头鹰和一个冰淇淋", Prompt("two objects", (("owl", 1), ("ice cream", 1)))),
        ("three apples", Prompt("counting", (("apple", 3),))),
        ("两个苹果", Prompt("counting", (("apple", 2),))),
        ("a red heart", Prompt("colour", (("red heart", 1),))),
        ("一颗红色的心", Prompt("colour", (("red heart", 1),))),
        ("a cat left of a red heart", Prompt("position", CAT_AND_HEART, "left of")),
        ("一只猫在一颗红色的心的左边", Prompt("position", CAT_AND_HEART, "left of")),
        (
            "an orange circle and a blue square",
            Prompt("colour attribution", (("orange circle", 1), ("blue square", 1))),
        ),
    ],
)
def test_plain_captions(text, prompt):
    assert parse(text) == prompt
    assert caption(prompt, "zh" if text > "z" else "en") == text


@pytest.mark.parametrize(
    "text",
    [
        "a cat to the left of a red heart",
        "The cat is left of the red heart.",
        "  a picture of a CAT   on the left of one red heart",
        "一颗红色的心在猫的右边",
        "红色的心的左边有一只猫",
        "图中一只猫在一颗红色的心的左侧",
        "cat left of red heart",
    ],
)
def test_other_wordings_ask_for_the_same(text):
    prompt = parse(text)
    if prompt.relation == "right of":
        prompt = Prompt(prompt.task, prompt.objects[::-1], "left of")
    assert prompt == Prompt("position", CAT_AND_HEART, "left of")


def test_other_numbers():
    for text in ("3 foxes", "three foxes", "三只狐狸", "3只狐狸", "三个狐狸", "图中有三只狐狸"):
        assert parse(text) == Prompt("counting", (("fox", 3),))
    assert parse("二条鱼") == parse("two fish") == Prompt("counting", (("fish", 2),))


def test_two_counted_things_are_two_objects():
    assert parse("two cats and a dog") == Prompt("two objects", (("cat", 2), ("dog", 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a zebra left of a dog", "'zebra'"),
        ("两只斑马", "斑马"),
        ("a cat beside a dog", "'beside'"),
        ("a heart", "shapes always have a colour"),
        ("a red cat", "shapes always have a colour"),
        ("a cat and a cat", "cannot read"),
        ("", "cannot read"),
        ("five cats", "'five'"),
    ],
)
def test_captions_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_wording_reads_back(language):
    objects = [((name, count),) for name in VOCABULARY for count in (1, *COUNTS)]
    objects += [((one, 1), (two, 1)) for one, two in zip(VOCABULARY, VOCABULARY[1:], strict=False)]
    wordings = set()
    for item in objects:
        for relation in (None, *RELATIONS) if len(item) == 2 else (None,):
            for u in (0.0, 0.85, 0.999):
                text = caption(Prompt("", item, relation), language, lambda u=u: u)
                back = parse(text)
                assert (back.objects, back.relation) == (item, relation), text
                wordings.add(text)
    assert len(wordings) > 2 * len(objects)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_phrase_has_two_meanings(language):
    for name in VOCABULARY:
        for count in (1, *COUNTS):
            for phrase in _phrases(name, count, language):
                assert _known_phrases(language)[phrase] == (name, count)


def test_templates_are_read_whole():
    assert all(pattern.groupindex.keys() <= {"a", "b"} for pattern, _ in _patterns("en") + _patterns("zh"))


def test_grammar():
    assert caption(Prompt("", (("octopus", 1),))) == "an octopus"
    assert caption(Prompt("", (("butterfly", 2),))) == "two butterflies"
    assert caption(Prompt("", (("orange heart", 4),))) == "four orange hearts"
    assert caption(Prompt("", (("key", 3),)), "zh") == "三把钥匙"
    assert all(phrase == phrase.lower() for phrase in _known_phrases("en"))


def test_vocabulary():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 70
    assert {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES} == {
        t.name for t in THINGS.values() if t.colour
    }
    assert all(thing.shape in SHAPES for thing in THINGS.values() if thing.colour)
    assert VOCABULARY.index("cat") == 0  # a checkpoint's classes stand in this order


def test_prompts_are_reproducible_and_do_not_depend_on_n():
    some = prompts(40, seed=3)
    assert prompts(40, seed=3) == some
    assert prompts(25, seed=3) == some[:25]
    assert prompts(40, seed=4) != some
    assert prompts(40, seed=3, split="all") != some


def test_languages_ask_for_the_same():
    english, chinese = (prompts(300, seed=5, language=language) for language in ("en", "zh"))
    assert [parse(text) for text in english] == [parse(text) for text in chinese]
    assert not set(english) & set(chinese)


def test_splits_are_disjoint_and_cover_every_task():
    train, held, both = (
        [parse(text) for text in prompts(3000, seed=7, split=split)] for split in ("train", "heldout", "all")
    )
    assert {prompt.task for prompt in train} == {prompt.task for prompt in both} == set(TASKS)
    assert {prompt.task for prompt in held} == set(TASKS) - {"one object"}
    assert not any(heldout(prompt) for prompt in train)
    assert all(heldout(prompt) for prompt in held)
    share = sum(heldout(prompt) for prompt in both) / len(both)
    assert 0.08 < share < 0.25

    def combinations(some):
        return {frozenset(prompt.objects) for prompt in some if prompt.task != "one object"}

    assert not combinations(train) & combinations(held)


def test_everything_appears_in_training_with_other_partners():
    names, counted, shapes = set(), set(), set()
    for name in VOCABULARY:
        partners = [other for other in VOCABULARY if other != name]
        if name not in HELD_OUT_SHAPES:
            seen = [other for other in partners if not heldout(Prompt("", ((name, 1), (other, 1))))]
            assert len(seen) > 0.6 * len(partners)
            names.add(name)
            counted.update(name for count in COUNTS if not heldout(Prompt("", ((name, count),))))
            if THINGS[name].colour:
                shapes.update(name.split())
    assert len(names) == 67
    assert counted == names  # each in at least one number
    assert shapes == {*COLOURS, *SHAPES}


def test_held_out_shares():
    pairs = [(a, b) for i, a in enumerate(VOCABULARY[:46]) for b in VOCABULARY[i + 1 : 46]]
    held = [pair for pair in pairs if heldout(Prompt("", tuple((name, 1) for name in pair)))]
    assert 0.10 < len(held) / len(pairs) < 0.15
    counts = [heldout(Prompt("", ((name, n),))) for name in VOCABULARY[:46] for n in COUNTS]
    assert 0.05 < sum(counts) / len(counts) < 0.2
    a, b = held[0]
    assert all(heldout(f"the {b} {relation} the {a}") for relation in RELATIONS)  # in any order and relation
    assert heldout("一颗棕色的心") and not heldout("a brown square")


def test_one_object_is_never_held_out():
    held = [parse(text) for text in prompts(50, split="heldout", tasks="one object")]
    assert {prompt.task for prompt in held} == {"one object"}
    assert not any(heldout(prompt) for prompt in held)


def test_tasks_choose():
    chosen = {parse(text).task for text in prompts(60, tasks=["position", "counting"])}
    assert chosen == {"position", "counting"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least 1, got 0"),
        ({"seed": -1}, "at least 0, got -1"),
        ({"split": "test"}, "'test'.*'train', 'heldout', 'all'"),
        ({"language": "fr"}, "'fr'.*'en', 'zh'"),
        ({"tasks": "colours"}, "'colours'.*'one object'.*'colour attribution'"),
        ({"tasks": []}, "empty"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        prompts(**{"n": 3} | arguments)
