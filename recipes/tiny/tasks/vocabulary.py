"""The small world that the tasks talk about: names, things, places. Fixed tuples, shared so that the tokenizer's
few merges cover most of them and a word learned in one task is known in the others."""


def pool(words: str) -> tuple[str, ...]:
    """The words of a text, in order."""
    return tuple(words.split())


NAMES = pool(
    "Mia Leo Ana Ben Eva Sam Zoe Max Ida Tom Lucy Omar Nina Paul Rosa Hugo Vera Jack Lena Carl Emma Noah Sara Adam "
    "Ruth Ivan Ella Dan Maya Luis Kate Finn Amy Oscar Jane Theo Lily Mark Tara Victor"
)

ITEMS = pool(
    "pens cups books apples stamps coins shells cards eggs plums keys balls boxes hats bricks flowers stones "
    "tickets marbles buttons cookies pears beads nuts"
)

HOLDERS = pool("bags jars trays packs crates baskets shelves rows")

THINGS = pool(
    "apple bread chair drum eagle fox grape horse island jacket kettle lemon mango needle onion piano queen river "
    "spoon tiger umbrella violin wagon yarn zebra anchor bridge candle desk engine feather garden hammer iron "
    "jewel kite ladder mirror nest ocean pencil quilt ribbon saddle table uniform valley window acorn bottle "
    "camera diamond elbow forest guitar harbor insect jungle knife lamp magnet napkin oven pocket rocket silver "
    "tunnel velvet whistle button copper dragon flute ginger helmet ivory lantern meadow noodle orange paper "
    "rabbit shovel teapot walnut"
)

CITIES = pool(
    "Paris Oslo Rome Lima Cairo Tokyo Delhi Berlin Madrid Vienna Dublin Lisbon Athens Prague Quito Havana Boston "
    "Denver Austin Milan Turin Kyoto Seoul Hanoi Accra Tunis Zurich Geneva Bergen Naples Porto Malaga"
)

COLORS = pool("red blue green pink gray black white brown gold purple")
