"""English into Spanish, a few sentences at a time: a small grammar with gender, number and word order.

Nouns carry a gender and adjectives follow and agree, so a line cannot be copied word by word; the vocabulary is small
enough to be learned by heart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator

SHORT, LONG = 64, 208  # response canvases of a few and of many sentences


@dataclass(frozen=True)
class Noun:
    """A noun in both languages, singular and plural. feminine: its gender in Spanish."""

    english: tuple[str, str]
    spanish: tuple[str, str]
    feminine: bool


def _nouns(text: str, feminine: bool) -> tuple[Noun, ...]:
    """From `one/many/uno/muchos` words."""
    split = [word.split("/") for word in text.split()]
    return tuple(Noun((one, many), (uno, muchos), feminine) for one, many, uno, muchos in split)


ACTORS = _nouns(
    "cat/cats/gato/gatos dog/dogs/perro/perros boy/boys/chico/chicos king/kings/rey/reyes "
    "doctor/doctors/doctor/doctores teacher/teachers/maestro/maestros",
    feminine=False,
) + _nouns(
    "girl/girls/chica/chicas queen/queens/reina/reinas woman/women/mujer/mujeres cow/cows/vaca/vacas "
    "aunt/aunts/tía/tías hen/hens/gallina/gallinas",
    feminine=True,
)
OBJECTS = _nouns(
    "book/books/libro/libros car/cars/coche/coches egg/eggs/huevo/huevos hat/hats/sombrero/sombreros "
    "clock/clocks/reloj/relojes tree/trees/árbol/árboles",
    feminine=False,
) + _nouns(
    "apple/apples/manzana/manzanas table/tables/mesa/mesas flower/flowers/flor/flores key/keys/llave/llaves "
    "letter/letters/carta/cartas box/boxes/caja/cajas",
    feminine=True,
)
VERBS = (
    (("sees", "see"), ("ve", "ven")),
    (("has", "have"), ("tiene", "tienen")),
    (("wants", "want"), ("quiere", "quieren")),
    (("buys", "buy"), ("compra", "compran")),
    (("draws", "draw"), ("dibuja", "dibujan")),
    (("finds", "find"), ("encuentra", "encuentran")),
    (("paints", "paint"), ("pinta", "pintan")),
    (("sells", "sell"), ("vende", "venden")),
)
ADJECTIVES = {  # masculine and feminine, singular; the plural adds an s, or es after a consonant
    "red": ("rojo", "roja"), "white": ("blanco", "blanca"), "black": ("negro", "negra"),
    "small": ("pequeño", "pequeña"), "new": ("nuevo", "nueva"), "old": ("viejo", "vieja"), "blue": ("azul", "azul"),
    "green": ("verde", "verde"), "tall": ("alto", "alta"), "happy": ("feliz", "feliz"),
}  # fmt: skip
NUMBERS = {"two": "dos", "three": "tres", "four": "cuatro", "five": "cinco", "six": "seis"}
PLACES = {
    "in the house": "en la casa", "in the garden": "en el jardín", "on the bridge": "en el puente",
    "at the market": "en el mercado", "in the city": "en la ciudad", "by the river": "junto al río",
}  # fmt: skip


def _agreeing(adjective: str, feminine: bool, many: bool) -> str:
    """The Spanish form of an adjective."""
    word = ADJECTIVES[adjective][feminine]
    if not many:
        return word
    return "felices" if word == "feliz" else word + ("s" if word[-1] in "aeo" else "es")


def _phrase(rng: random.Random, nouns: tuple[Noun, ...], level: int) -> tuple[str, str, bool]:
    """A noun with what goes before and after it, in both languages, and whether there are many."""
    noun = rng.choice(nouns)
    many = rng.random() < 0.4
    if many and rng.random() < 0.5:
        number = rng.choice(list(NUMBERS))
        english, spanish = number, NUMBERS[number]
    else:
        english, spanish = "the", ("el", "la", "los", "las")[noun.feminine + 2 * many]
    adjective = rng.choice(list(ADJECTIVES)) if rng.random() < (0.3, 0.5, 0.6)[level] else None
    words = (english, adjective, noun.english[many])
    palabras = (spanish, noun.spanish[many], adjective and _agreeing(adjective, noun.feminine, many))
    return " ".join(filter(None, words)), " ".join(filter(None, palabras)), many


def sentence(rng: random.Random, level: int) -> tuple[str, str]:
    """One sentence in English and in Spanish, both in small letters, so that a word is one token wherever it stands."""
    who, quien, many = _phrase(rng, ACTORS, level)
    what, que, _ = _phrase(rng, OBJECTS, level)
    does, hace = rng.choice(VERBS)
    english, spanish = [who, does[many], what], [quien, hace[many], que]
    if rng.random() < (0.0, 0.3, 0.5)[level]:
        place = rng.choice(list(PLACES))
        english, spanish = [*english, place], [*spanish, PLACES[place]]
    return " ".join(english), " ".join(spanish)


def make(rng: random.Random, level: int) -> Example:
    """Two to four sentences, a line each; at the full difficulty one example in ten has ten to fourteen."""
    long = level == 2 and rng.random() < 0.1
    count = rng.randint(10, 14) if long else rng.randint(*((1, 2), (2, 3), (2, 4))[level])
    pairs = [sentence(rng, level) for _ in range(count)]
    english, spanish = ("\n".join(f" {line}." for line in lines) for lines in zip(*pairs, strict=True))
    wording = rng.choice(("Translate to Spanish:\n{0}", "In Spanish, please:\n{0}", "Spanish:\n{0}"))
    return Example("spanish", wording.format(english), spanish, LONG if long else SHORT, english)


TASK = Generator.of("spanish", make)
