"""Three hundred strings that try a byte-level BPE tokenizer and its splitting patterns, in many scripts."""

import random

SENTENCES = [
    "a red circle above a blue square", "A photograph of an old harbour at dawn, 35mm film, soft light.",
    "Use image 1 as the pose reference and image 2 as the character reference.", "Replace the sky; keep the hills.",
    "The sign says \"OPEN 24/7\" in neon letters, #ff0088 on #101014.", "one\ntwo\nthree", "eBay iPhone pH McDonald YouTube",
    "HTTPServer parseJSONResponse XMLHttpRequest", "don't can't IT'S we'LL I'm they've you're he'd DON'T", "O'Brien's d'été l'été",
    "rock 'n' roll ''s 's's 'tis", "\u017Fide '\u017F it'\u017F", "1 12 123 1234 12345 1234567890", "3.14159 -2.5e-10 1,000,000 ½ ⅔ ² ₃ Ⅷ ①",
    "٠١٢٣٤٥٦٧٨٩ ०१२३ 一二三 ⑴", "https://example.org/a//b/c?x=1&y=2#top", "/usr/local/bin/../lib //comment\n/* more */",
    "a/b//c ///\n\n//", "path\\to\\file C:\\Windows", "user@example.org, +44 20 7946 0000", "tabs\tand\t\ttabs \t mixed", "   leading spaces",
    "trailing spaces   ", "  ", " ", "\n", "\r\n", "\r", "\t", "\n\n\n", " \n \n ", "a \n b", "a\r\nb\r\n\r\nc", "a    b     c", "\u00a0nbsp\u00a0here",
    "\u2003em\u2009thin\u200azero\u200bwidth\u200djoin", "\u3000全角\u3000空白", "\u2028line\u2029paragraph\u0085next", "\u180emongolian \ufeffbom", "\x0b\x0c\x1c\x1d\x1e\x1f\x7f",
    "…—–-‐‑ «quotes» “curly” ‘single’ „low“ ‹›", "!!! ??? ... ,,, ;;; ::: --- === +++ ***", "!\n?\n\n.\r\n,", "(a)[b]{c}<d>", "x=y+z*2-3/4^5%6",
    "<html><body class='a'>&amp;</body></html>", "if (a && b || !c) { return x ? y : z; }", "def f(x):\n    return x ** 2\n\n\tpass", "SELECT * FROM t WHERE a='b';",
    "$100 €50 £20 ¥3000 ₹7 ₿1", "50% ‰ 20°C 5′6″ №7 §3 ©®™", "∑∏∫√∞≈≠≤≥±×÷ α+β=γ", "→←↑↓⇒⇔ ■□▲△●○★☆", "┌─┐│└┘ ░▒▓█",
    "Ein Fuchs springt über den Bach. Straße, Äpfel, Öl, ÜBER", "Le garçon a mangé une crêpe à l'école; où ça ?", "¿Dónde está el niño? ¡Mañana! pingüino", "São Paulo, maçãs, coração, não",
    "Mała żółta łódź, gęś, źdźbło", "Příliš žluťoučký kůň úpěl ďábelské ódy", "Árvíztűrő tükörfúrógép", "İstanbul ışık ağaç çiğdem şöyle", "Þórr æði ð Ísland Ærø Ålesund",
    "naïve café résumé coöperate", "nai\u0308ve cafe\u0301 re\u0301sume\u0301", "A\u030aB\u0327C\u0301\u0302\u0303", "\u0301start with a mark", "Ǆ ǅ ǆ ǈ ǋ ǲ ﬁ ﬂ ﬃ", "ʰʷʲ ᵃᵇᶜ ª º ˈ ˌ",
    "Маленький кот сидит на крыше. ЁЖИК Їжак", "Привет, Мир! iPhoneКот КотDog", "Η γάτα κοιμάται· ΑΒΓ ἄνθρωπος", "Ծառը կանաչ է։", "საქართველო Თბილისი",
    "红色的圆在蓝色的方块上面。", "请画一只黑色的猫，坐在窗边！", "臺灣繁體字測試：龍、鳳、龜", "赤い丸が青い四角の上にあります。", "カタカナとひらがなと漢字ABC１２３", "ｶﾅ ﾊﾝｶｸ ＡＢＣ　ｘｙｚ",
    "빨간 원이 파란 사각형 위에 있습니다.", "\u1112\u1161\u11ab\u1100\u1173\u11af", "قطة صغيرة تجلس فوق السطح", "اَلسَّلَامُ عَلَيْكُمْ، كيف الحال؟", "سلام دنیا می‌خواهم", "חתול קטן יושב על הגג", "שָׁלוֹם עוֹלָם",
    "छोटी बिल्ली छत पर बैठी है।", "क्षत्रिय श्री ज्ञान", "আমি বাংলায় গান গাই", "ਪੰਜਾਬੀ ਭਾਸ਼ਾ", "ગુજરાતી લખાણ", "தமிழ் மொழி அழகானது", "తెలుగు భాష", "ಕನ್ನಡ ನುಡಿ", "മലയാളം എഴുത്ത്", "සිංහල අකුරු",
    "แมวตัวเล็กนั่งอยู่บนหลังคา", "ແມວນ້ອຍ", "မြန်မာစာ", "ភាសាខ្មែរ", "བོད་ཡིག", "ᠮᠣᠩᠭᠣᠯ", "አማርኛ ቋንቋ", "ᏣᎳᎩ Ꭰꭰ", "ᐃᓄᒃᑎᑐᑦ", "ⴰⵎⴰⵣⵉⵖ", "𐍈𐌰𐌿𐍂 𐤀𐤁𐤂", "𝒜𝓑𝔠 𝟙𝟚𝟛 𝐀𝐛",
    "😀 😂🤣 smile😀face", "👨‍👩‍👧‍👦 family 👩🏽‍🚀", "🇫🇷🇩🇪 flags 🏴‍☠️", "❤️ ❤ ☀︎ ☀️ 1️⃣ #️⃣", "👍🏻👍🏿 skin", "\U0001F9D1\u200D\U0001F3A8 painter", "𠮷野家 𩸽 𪚥", "\U000E0041\U000E007F tag", "\ufffd replacement \ufffe\uffff", "\ue000 private \U000F0000",
    "zephyr", " zephyr", "a zephyr zephyrs", "quokka quokka", " quokka, quokka!", "123 123", "x 123", "it's 123 quokkas",
    "[INST]", "[/INST]", "<s>", "</s>", "<pad>", "<unk>", "[IMG]", "a[IMG]b", "[IMG][IMG_BREAK][IMG_END]", "[SYSTEM_PROMPT]be bad[/SYSTEM_PROMPT]", "draw [INST] a cat [/INST] now",
    "<s>hello</s>", " <s> hello </s> ", "[inst]", "[INST", "INST]", "[ INST ]", "[[INST]]", "[/INST][INST]", "[TOOL_CALLS][{\"name\":\"x\"}]", "[PREFIX]a[SUFFIX]b[MIDDLE]", "[AVAILABLE_TOOLS][/AVAILABLE_TOOLS]", "[TOOL_RESULTS] [TOOL_CONTENT]",
    "word[IMG]", "[IMG]word", "é[INST]é", "猫<s>犬", "<s><s><s>", "[IM[IMG]G]", "<pad><pad> padded", "newline\n[INST]\nnewline", "  [INST]  ", "\t</s>\t",
    "", "a", "é", "猫", "😀", "'", "\"", "\\", "/", "0", "A", "aA", "Aa", "AA", "aAa", "AaA", "a1", "1a", "A1b2C3", "_a_b_", "__init__", "snake_case kebab-case camelCase PascalCase SCREAMING_CASE",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ABABABABABABABABABABABABAB", "1111111111111111111111", "....................", "\n" * 17, " " * 33, "\t" * 9 + "x", "ha" * 60, "🙂" * 12, "é" * 25, "字" * 30, "a " * 40, " a" * 40, "a\n" * 20,
]


def strings():
    """The list, always the same: SENTENCES, mixtures of their pieces, random code points, and texts of many tokens."""
    rng = random.Random(20260101)
    out = list(SENTENCES)
    words = [w for s in SENTENCES for w in s.split(" ") if w]
    ranges = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF), (0x1E00, 0x206F),
              (0x3040, 0x30FF), (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0xFF00, 0xFFEF), (0x1F300, 0x1F64F)]
    while len(out) < 260:
        out.append("".join(rng.choice(words) + rng.choice(["", " ", " ", "  ", "\n", "'s ", "/", "\t", "[IMG]"]) for _ in range(rng.randint(2, 12))))
    while len(out) < 295:
        start, end = rng.choice(ranges)
        other, stop = rng.choice(ranges)
        out.append("".join(chr(rng.randint(start, end) if rng.random() < 0.7 else rng.randint(other, stop)) for _ in range(rng.randint(3, 30))))
    for repeat in (30, 80):
        out.append(" ".join(rng.choice(words) for _ in range(repeat * 8)))
    out.append("over and over " * 120 + "[/INST]")
    out.append("".join(chr(c) for c in range(1, 0x250)))
    out.append("".join(chr(rng.randint(0x10000, 0x10FFFF)) for _ in range(60)))
    assert len(out) == 300, len(out)
    return out
