"""English discourse markers that open a sentence. Written for this project; no list was copied.

Most are markers only before a comma: "However, it rained", but "However hard it rained". The bare ones need none, the
guarded ones must not be followed by what makes them something else: "Thus far".
"""

from pretrain.tasks.markers import Lexicon, Marker

BARE = """
therefore, hence, moreover, furthermore, nevertheless, nonetheless, consequently, conversely, for example, for
instance, in other words, even so, subsequently, eventually, meanwhile, additionally, afterwards, likewise,
ultimately, unfortunately, fortunately, alternatively, accordingly, indeed, in fact, of course, for this reason, for
that reason, after that, in the meantime, to this end
"""

GUARDED = [
    Marker("but", unless=r"\s+for\b"),
    Marker("and"),
    Marker("yet", unless=r"\s+(?:another|to)\b"),
    Marker("thus", unless=r"\s+far\b"),
    Marker("in contrast", unless=r"\s+(?:to|with)\b"),
    Marker("as a result", unless=r"\s+of\b"),
    Marker("instead", unless=r"\s+of\b"),
    Marker("similarly", unless=r"\s+to\b"),
    Marker("as a consequence", unless=r"\s+of\b"),
    Marker("then", unless=r"\s+(?:an?|aged|known|called)\b"),
    Marker("in the end", unless=r"\s+of\b"),
    Marker("by contrast", unless=r"\s+(?:to|with)\b"),
    Marker("on the other hand", firsts=("on the one hand", "on one hand")),
]

BEFORE_A_COMMA = """
however, also, besides, otherwise, next, lastly, actually, in reality, in addition, on the contrary, in comparison, by
comparison, in particular, specifically, particularly, notably, more specifically, that is, in short, in summary, in
conclusion, to conclude, overall, in general, generally, rather, still, even then, certainly, clearly, obviously,
naturally, sadly, surprisingly, interestingly, importantly, more importantly, ironically, apparently, later,
previously, at first, initially, at the same time, in turn, in this way, in this case, as such, before that, in
response, in return, in practice, in theory, in essence, again, equally, presumably, regardless, simultaneously, what
is more, so, in the same way, if so, or, after all
"""

ORDINAL = [
    Marker("secondly", comma=True, firsts=("firstly", "first")),
    Marker("second", comma=True, firsts=("first", "firstly")),
    Marker("thirdly", comma=True, firsts=("secondly", "second")),
    Marker("third", comma=True, firsts=("second", "secondly")),
    Marker("finally", comma=True),
    Marker("first", comma=True),
    Marker("firstly", comma=True),
]


def listed(text: str) -> list[str]:
    return [" ".join(entry.split()) for entry in text.split(",")]


ENGLISH = Lexicon(
    [
        *(Marker(text) for text in listed(BARE)),
        *GUARDED,
        *(Marker(text, comma=True) for text in listed(BEFORE_A_COMMA)),
        *ORDINAL,
    ],
    language="en",
)
