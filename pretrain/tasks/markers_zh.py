"""Chinese discourse markers that open a sentence or a clause. Written for this project; no list was copied.

Paired ones (虽然…但是) are named by their second half. Words that are also something else need a comma (最后，), or
stand with what must not follow (同时期, 但丁); single characters without either sign (而, 则, 就) are left out.
All are in simplified characters.
"""

from pretrain.tasks.markers import Lexicon, Marker

ALTHOUGH = ("虽然", "虽说", "虽", "尽管", "固然", "诚然")
BECAUSE = ("因为", "由于", "鉴于", "正因为", "正因")
NOT_ONLY = ("不但", "不仅仅", "不仅", "不单", "不光", "不只")
IF = ("如果", "假如", "假使", "倘若", "要是", "若是")

PAIRED = [
    Marker("但是", firsts=ALTHOUGH),
    Marker("但", firsts=ALTHOUGH, unless="[丁凡愿泽书]"),
    Marker("可是", firsts=ALTHOUGH),
    Marker("然而", firsts=ALTHOUGH),
    Marker("不过", firsts=ALTHOUGH, unless="[是几一二两三四五六七八九十百数如分问去来]|[0-9]"),
    Marker("所以", firsts=BECAUSE),
    Marker("因此", firsts=BECAUSE),
    Marker("因而", firsts=BECAUSE),
    Marker("故而", firsts=BECAUSE),
    Marker("而且", firsts=NOT_ONLY),
    Marker("并且", firsts=NOT_ONLY),
    Marker("反而", firsts=NOT_ONLY),
    Marker("甚至", firsts=NOT_ONLY),
    Marker("那么", firsts=IF, unless="[多大小高长好远快久]"),
    Marker("否则", firsts=("除非",)),
    Marker("另一方面", firsts=("(?<!另)一方面",)),
    Marker("其次", firsts=("首先", "其一"), unless="[为是]"),
    Marker("再次", firsts=("其次",), comma=True),
    Marker("宁可", firsts=("与其",)),
    Marker("不如", firsts=("与其",), comma=True),
]

ALONE = """
从而 于是 此外 除此之外 除此以外 不仅如此 与此同时 例如 比如 譬如 比方说 比如说 也就是说 换句话说 换言之
总之 总而言之 综上所述 简而言之 简言之 然后 接着 其后 不然 要不然 反之 反过来 相反地 与之相反 与此相反
相比之下 相对而言 相较之下 事实上 实际上 其实 特别是 尤其是 尤其 以至于 以致于 以致 以至 由此可见 由此 据此 为此
更重要的是 何况 更何况 况且 再说 再者 进而 继而 尽管如此 即便如此 即使如此 虽然如此 无论如何 不管怎样 具体来说
具体而言 一般来说 一般而言 总的来说 同样地 类似地 举例来说 此后 从此 正因如此 正因为如此 反倒 毕竟 归根结底
只不过 幸好 果然 不料
"""

BEFORE_A_COMMA = """
最后 首先 之后 结果 最终 相反 同样 当然 显然 起初 最初 此前 随即 接下来 诚然 的确 确实 可见
"""

GUARDED = [
    Marker("可惜", unless="的"),
    Marker("同时", unless="[期代空]"),
    Marker("另外", unless="[一两二三四五六七八九十几数的那这]|[0-9]"),
    Marker("后来", unless="[的者人居]"),
    Marker("随后", unless="的"),
]

CHINESE = Lexicon(
    [
        *PAIRED,
        *(Marker(word) for word in ALONE.split()),
        *(Marker(word, comma=True) for word in BEFORE_A_COMMA.split()),
        *GUARDED,
    ],
    language="zh",
)
