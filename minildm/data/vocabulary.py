"""What can stand in a scene: 46 nouns and three shapes in eight colours, each with its OpenMoji code point."""

from collections.abc import Iterable
from dataclasses import dataclass

LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Thing:
    """One entry of the vocabulary: a noun ("cat") or a shape in a colour ("red heart")."""

    name: str
    plural: str
    chinese: str
    measure: str  # the Chinese measure word: 一只猫, 一把钥匙
    codepoint: str  # OpenMoji's file name
    colour: str | None = None
    fill: str | None = None  # what the drawing is filled with in place of its own colour

    @property
    def shape(self) -> str | None:
        return self.name.removeprefix(f"{self.colour} ") if self.colour else None


# Chosen to be told apart at 32x32, where an object is some ten pixels wide, and to have one name in each language.
NOUNS = tuple(
    Thing(*row.split("|"))
    for row in """\
cat|cats|猫|只|1F431
dog|dogs|狗|只|1F436
fox|foxes|狐狸|只|1F98A
panda|pandas|熊猫|只|1F43C
frog|frogs|青蛙|只|1F438
pig|pigs|猪|头|1F437
penguin|penguins|企鹅|只|1F427
owl|owls|猫头鹰|只|1F989
fish|fish|鱼|条|1F41F
turtle|turtles|乌龟|只|1F422
elephant|elephants|大象|头|1F418
octopus|octopuses|章鱼|只|1F419
butterfly|butterflies|蝴蝶|只|1F98B
bee|bees|蜜蜂|只|1F41D
snail|snails|蜗牛|只|1F40C
duck|ducks|鸭子|只|1F986
crab|crabs|螃蟹|只|1F980
chick|chicks|小鸡|只|1F424
apple|apples|苹果|个|1F34E
banana|bananas|香蕉|根|1F34C
pear|pears|梨|个|1F350
strawberry|strawberries|草莓|颗|1F353
watermelon|watermelons|西瓜|块|1F349
pineapple|pineapples|菠萝|个|1F34D
carrot|carrots|胡萝卜|根|1F955
mushroom|mushrooms|蘑菇|朵|1F344
pizza|pizzas|披萨|块|1F355
burger|burgers|汉堡|个|1F354
cake|cakes|蛋糕|个|1F382
donut|donuts|甜甜圈|个|1F369
ice cream|ice creams|冰淇淋|个|1F366
eggplant|eggplants|茄子|个|1F346
car|cars|汽车|辆|1F697
rocket|rockets|火箭|枚|1F680
train|trains|火车|列|1F682
house|houses|房子|座|1F3E0
tree|trees|树|棵|1F332
cactus|cactuses|仙人掌|棵|1F335
umbrella|umbrellas|雨伞|把|2602
key|keys|钥匙|把|1F511
guitar|guitars|吉他|把|1F3B8
crown|crowns|皇冠|顶|1F451
star|stars|星星|颗|2B50
moon|moons|月亮|个|1F319
gift|gifts|礼物|份|1F381
robot|robots|机器人|个|1F916""".splitlines()
)

# OpenMoji's own hues differ between shapes (its blue heart is navy, its blue square sky blue) and its brown is nearly
# black: here a colour is one hue on all three, and any two colours differ clearly.
_COLOURS = {
    "red": ("红色", "#d8342b"),
    "orange": ("橙色", "#f08a24"),
    "yellow": ("黄色", "#fcdc2b"),
    "green": ("绿色", "#4f9e3a"),
    "blue": ("蓝色", "#2f74cf"),
    "purple": ("紫色", "#8f57b8"),
    "brown": ("棕色", "#8f5a33"),
    "black": ("黑色", "#303030"),
}
_SHAPES = {"circle": ("圆形", "个", "1F534"), "square": ("正方形", "个", "1F7E5"), "heart": ("心", "颗", "2764")}
COLOURS, SHAPES = tuple(_COLOURS), tuple(_SHAPES)

COLOURED_SHAPES = tuple(
    Thing(f"{colour} {shape}", f"{colour} {shape}s", f"{chinese}的{noun}", measure, codepoint, colour, fill)
    for colour, (chinese, fill) in _COLOURS.items()
    for shape, (noun, measure, codepoint) in _SHAPES.items()
)


def by_name(things: Iterable[Thing]) -> dict[str, Thing]:
    """Things by their names, in the order given. Raises ValueError where two share a word, in either language."""
    found, taken = {}, {}
    for thing in things:
        for word in {thing.name, thing.plural, thing.chinese}:
            if word in taken:
                raise ValueError(
                    f"expected a word of its own for each thing, got {word!r} for {taken[word]} and {thing}"
                )
            taken[word] = thing
        found[thing.name] = thing
    return found


THINGS = by_name(NOUNS + COLOURED_SHAPES)
VOCABULARY = tuple(THINGS)  # index + 1 is a thing's class in a class map; 0 is the ground
