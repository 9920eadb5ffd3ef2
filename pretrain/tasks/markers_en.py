"""English discourse markers that open a sentence. Written for this project; no list was copied.

Most are markers only before a comma: "However, it rained", but "However hard it rained". The bare ones need none.
"""

from pretrain.tasks.markers import Lexicon, Marker

BARE = [
    Marker("but", unless=r"\s+for\b"),
    Marker("and"),
    Marker("yet", unless=r"\s+(?:another|to)\b"),
    Marker("therefore"),
    Marker("thus", unless=r"\s+far\b"),
    Marker("hence"),
    Marker("moreover"),
    Marker("furthermore"),
    Marker("nevertheless"),
    Marker("nonetheless"),
    Marker("consequently"),
    Marker("conversely"),
    Marker("in contrast", unless=r"\s+(?:to|with)\b"),
    Marker("as a result", unless=r"\s+of\b"),
    Marker("for example"),
    Marker("for instance"),
    Marker("in other words"),
    Marker("even so"),
    Marker("on the other hand", firsts=("on the one hand", "on one hand")),
]

BEFORE_A_COMMA = """
however, additionally, also, besides, likewise, similarly, meanwhile, instead, otherwise, accordingly, subsequently,
afterwards, then, next, lastly, indeed, in fact, actually, in reality, in addition, by contrast, on the contrary, in
comparison, by comparison, in particular, specifically, particularly, notably, more specifically, that is, in short,
in summary, in conclusion, to conclude, overall, in general, generally, rather, still, even then, of course,
certainly, clearly, obviously, naturally, unfortunately, fortunately, sadly, surprisingly, interestingly, importantly,
more importantly, ironically, apparently, eventually, ultimately, later, previously, at first, initially, at the same
time, in turn, in the meantime, in this way, in this case, for this reason, for that reason, as such, to this end,
after that, before that, in the end, in response, in return, in practice, in theory, in essence, again, equally,
alternatively, presumably, regardless, simultaneously, what is more, so, as a consequence, in the same way, if so, or,
after all
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

ENGLISH = Lexicon(
    [*BARE, *(Marker(word.strip(), comma=True) for word in BEFORE_A_COMMA.split(",")), *ORDINAL], language="en"
)
