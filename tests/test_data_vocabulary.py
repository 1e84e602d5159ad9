import pytest

from minildm.data.vocabulary import COLOURED_SHAPES, NOUNS, THINGS, VOCABULARY, Thing, by_name

ZEBRA = Thing("zebra", "zebras", "斑马", "匹", "1F993")


def test_each_thing_has_its_place():
    assert len(VOCABULARY) == len(NOUNS) + len(COLOURED_SHAPES) == 70 and VOCABULARY[:2] == ("cat", "dog")
    assert list(by_name([*NOUNS, ZEBRA])) == [*(noun.name for noun in NOUNS), "zebra"]
    assert THINGS["fish"].plural == "fish"  # one thing may use a word twice


@pytest.mark.parametrize(
    "thing, word",
    [
        (THINGS["cat"], "cat|cats|猫"),
        (Thing("cat", "felines", "猫咪", "只", "1F408"), "'cat'"),
        (Thing("shoal", "fish", "鱼群", "群", "1F41F"), "'fish'"),
        (Thing("kitten", "kittens", "猫", "只", "1F408"), "'猫'"),
        (Thing("red heart", "love", "爱", "颗", "2764"), "'red heart'"),
    ],
)
def test_a_word_that_is_taken_is_an_error(thing, word):
    with pytest.raises(ValueError, match=f"a word of its own for each thing, got .*({word})"):
        by_name([*THINGS.values(), thing])
