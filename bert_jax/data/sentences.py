"""Splits text into sentences with the library sentencex, by the rules of a language."""

import re
import unicodedata

from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

_NAMES = """\
aa Afar, ab Abkhazian, ae Avestan, af Afrikaans, ak Akan, am Amharic, an Aragonese, ar Arabic,
as Assamese, av Avaric, ay Aymara, az Azerbaijani, ba Bashkir, be Belarusian, bg Bulgarian,
bi Bislama, bm Bambara, bn Bengali, bo Tibetan, br Breton, bs Bosnian, ca Catalan, ce Chechen,
ch Chamorro, co Corsican, cr Cree, cs Czech, cu Church Slavic, cv Chuvash, cy Welsh, da Danish,
de German, dv Divehi, dz Dzongkha, ee Ewe, el Greek, en English, eo Esperanto, es Spanish,
et Estonian, eu Basque, fa Persian, ff Fulah, fi Finnish, fj Fijian, fo Faroese, fr French,
fy Western Frisian, ga Irish, gd Gaelic, gl Galician, gn Guarani, gu Gujarati, gv Manx, ha Hausa,
he Hebrew, hi Hindi, ho Hiri Motu, hr Croatian, ht Haitian, hu Hungarian, hy Armenian, hz Herero,
ia Interlingua, id Indonesian, ie Interlingue, ig Igbo, ii Sichuan Yi, ik Inupiaq, io Ido,
is Icelandic, it Italian, iu Inuktitut, ja Japanese, jv Javanese, ka Georgian, kg Kongo,
ki Kikuyu, kj Kuanyama, kk Kazakh, kl Greenlandic, km Khmer, kn Kannada, ko Korean, kr Kanuri,
ks Kashmiri, ku Kurdish, kv Komi, kw Cornish, ky Kyrgyz, la Latin, lb Luxembourgish, lg Ganda,
li Limburgish, ln Lingala, lo Lao, lt Lithuanian, lu Luba-Katanga, lv Latvian, mg Malagasy,
mh Marshallese, mi Maori, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ms Malay,
mt Maltese, my Burmese, na Nauru, nb Norwegian Bokmål, nd North Ndebele, ne Nepali, ng Ndonga,
nl Dutch, nn Norwegian Nynorsk, no Norwegian, nr South Ndebele, nv Navajo, ny Chichewa,
oc Occitan, oj Ojibwa, om Oromo, or Oriya, os Ossetian, pa Punjabi, pi Pali, pl Polish, ps Pashto,
pt Portuguese, qu Quechua, rm Romansh, rn Rundi, ro Romanian, ru Russian, rw Kinyarwanda,
sa Sanskrit, sc Sardinian, sd Sindhi, se Northern Sami, sg Sango, si Sinhala, sk Slovak,
sl Slovenian, sm Samoan, sn Shona, so Somali, sq Albanian, sr Serbian, ss Swati,
st Southern Sotho, su Sundanese, sv Swedish, sw Swahili, ta Tamil, te Telugu, tg Tajik, th Thai,
ti Tigrinya, tk Turkmen, tl Tagalog, tn Tswana, to Tonga, tr Turkish, ts Tsonga, tt Tatar, tw Twi,
ty Tahitian, ug Uighur, uk Ukrainian, ur Urdu, uz Uzbek, ve Venda, vi Vietnamese, vo Volapük,
wa Walloon, wo Wolof, xh Xhosa, yi Yiddish, yo Yoruba, za Zhuang, zh Chinese, zu Zulu"""

LANGUAGES = dict(entry.split(" ", 1) for entry in re.split(r",\s", _NAMES))
"""The English name of each code of ISO 639-1. If sentencex has no rules for a language, it uses
those of a related one, or of English."""

SENTENCE_F1 = {
    "ar": 1.0, "cs": 0.85, "de": 1.0, "el": 0.86, "en": 0.93, "fi": 1.0, "hi": 0.71, "tr": 1.0,
    "zh": 0.79,
}  # fmt: skip
"""F1 of the sentences that `split_sentences` finds. A sentence counts if its first and its last
character are right. tests/data/sentences.txt has 20 sentences of each language, split by hand."""

LOWEST_F1 = 0.95

_CJK_END = re.compile(r".+?(?:(?:[。！？]+|…{2,})[”’」』）]*|$)")
_NO_END = re.compile(r"\b(?:[^\W\d_]|[IVXLC]+)\.$")
_GERMAN_NO_END = re.compile(r"\b(?:[^\W\d_]|[IVXLC]+|\d{1,2})\.$")
_MAY_CONTINUE = tuple(".\"'”’“»)]」』）")


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Returns the stripped sentences of a text in order. A sentence never crosses a line.

    sentencex finds the sentences of English, because data that were prepared earlier must keep
    their sentences. In other languages, these rules correct the result:

    - A sentence ends at 。！？ and …… also if no space follows.
    - A sentence does not begin with a lower-case letter after a full stop, a closing bracket or a
      quotation mark (rule SB8 of Unicode Standard Annex #29).
    - The full stop of an initial or of a Roman numeral ends no sentence. In German, the full stop
      after one or two digits does not either, because it marks an ordinal number.
    """
    split = segment if language == "en" else _segment
    sentences = (one.strip() for line in text.split("\n") for one in split(language, line))
    return [sentence for sentence in sentences if not is_blank(sentence)]


def _segment(language: str, line: str) -> list[str]:
    sentences = [""]
    for part in (part for found in segment(language, line) for part in _CJK_END.findall(found)):
        before = sentences[-1].rstrip()
        first = next((c for c in part if c.isalpha() or c in ".!?…"), "")
        if (_GERMAN_NO_END if language == "de" else _NO_END).search(before) or (
            before.endswith(_MAY_CONTINUE) and first.islower()
        ):
            sentences[-1] += part
        else:
            sentences.append(part)
    return sentences


def is_blank(text: str) -> bool:
    """Returns whether a text shows nothing: white space, control and format characters.

    Format characters, such as U+200B and U+FEFF, have no width.
    """
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)
