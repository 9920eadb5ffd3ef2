"""Chinese discourse markers that open a sentence or a clause. Written for this project; no list was copied.

Paired ones whose second half says enough alone (虽然…但是) are named by it. Where it does not (如果…就), or follows the
subject (他却), the pair is a class, and counts only where both halves stand in neighbouring clauses. Words that are
also something else need a comma (最后，), or stand with what must not follow (同时期, 但丁); single characters without
any such sign (而, 则) are left out. All are in simplified characters.

The order is that of the classes: add at the end.
"""

from pretrain.tasks.markers import Lexicon, Marker, Pair

ALTHOUGH = ("虽然", "虽说", "虽则", "虽", "尽管(?!如此)", "固然", "诚然")
BECAUSE = ("(?<!是)因为", "(?<!是)由于", "鉴于", "正因为", "正因")
NOT_ONLY = ("不但", "不仅仅", "不仅", "不单(?![独调一])", "不光(?![滑彩荣明])", "不只")
IF = ("如果", "假如", "假使", "倘若", "倘使", "假若", "如若", "(?<![主只需重首])要是", "若是")
EVEN_IF = ("即使(?!如此)", "即便(?!如此)", "哪怕", "就算", "纵使", "纵然")
WHETHER = ("无论", "不论", "不管(?![理制辖])")
JIU = "(?<![成])就(?![是读任职业近])"
YE = "也(?![许门])"
STILL = "还是(?=[没不在被要会能可得将把])"

PAIRED = [
    Marker("但是", firsts=ALTHOUGH, tail="却"),
    Marker("但", firsts=ALTHOUGH, unless="[丁凡愿泽书]", tail="却"),
    Marker("可是", firsts=ALTHOUGH, tail="却"),
    Marker("然而", firsts=ALTHOUGH, tail="却"),
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

ANNOUNCED = {"然后": ("首先",), "接着": ("首先",), "最后": ("首先",), "之后": ("首先",)}

PAIRS = [
    Pair("虽然…却", ALTHOUGH, ("(?<![冷退忘推了])却(?!步)", "仍然", "仍旧", "仍", "依然", "依旧", STILL)),
    Pair("如果…就", IF, (JIU, "便(?![利宜捷于])", "则(?!是)")),
    Pair("只要…就", ("只要",), (JIU, "便(?![利宜捷于])")),
    Pair("一旦…就", ("一旦",), (JIU, "便(?![利宜捷于])")),
    Pair("只有…才", ("只有", "唯有", "惟有"), ("(?<![人天英口])才(?![华干艺智子女])",), subject=False),
    Pair("即使…也", EVEN_IF, (YE, "亦", "仍然", "仍旧", "仍", "依然", STILL)),
    Pair("无论…都", WHETHER, ("(?<![首成京古])都(?![市会城护])", YE, "均", "皆")),
    Pair("不但…还", NOT_ONLY, ("还(?![原债乡击手给清款])", YE, "更(?![换改新名衣替生])", "亦", "又"), subject=False),
    Pair("既…又", ("既(?![有定得往然婚成])", "既有(?!的)"), ("又", YE, "亦"), subject=False),
    Pair("不如", ("与其(?![他它余])",), ("倒不如", "还不如", "不如", "毋宁"), subject=False),
    Pair("宁可…也不", ("宁可", "宁愿", "宁肯"), ("也(?=不|要|绝)",)),
    Pair("之所以…是因为", ("之所以",), ("是因为", "是由于", "乃因"), subject=False),
    Pair("另一方面", ("(?<!另)一方面",), ("一方面", "另方面"), subject=False),
]

CHINESE = Lexicon(
    [
        *PAIRED,
        *(Marker(word, firsts=ANNOUNCED.get(word, ())) for word in ALONE.split()),
        *(Marker(word, comma=True, firsts=ANNOUNCED.get(word, ())) for word in BEFORE_A_COMMA.split()),
        *GUARDED,
    ],
    language="zh",
    pairs=PAIRS,
    firsts=(*BECAUSE, "除非"),
    loose="[却则且故]|而(?![今立])|那(?=[我你他她它])",
)
