"""A direct transcription of BERT's published tokenization, and texts for comparisons with it."""

import unicodedata

from hypothesis import strategies as st

from bert_jax.data.tokenizers.wordpiece import WordPiece

# Letters of many scripts, and each kind of character that the algorithm treats specially.
ODD_CHARACTERS = (
    "aAbB7éÉßẞİıΣσς.,$+^`#[]_ \t\n\r\x00\x0b\x0c\x1c\x1f\x7f\x85\xa0\xad\ufffd\ufeff"
    + (
        "\u0301\u0345\u037e\u1fef\u2000\u200b\u200d\u2028\u2029\u202f\u3000。、！—“’«¿中文漢한국あカ"
        "\u4dff\ua000\uf900\U0002b81f\U0002b820\U0002ceaf\U0002ceb0\U0002f800\ue000😀👍🏽अनि\u0378"
    )
)
texts = st.text(st.sampled_from(ODD_CHARACTERS) | st.characters(exclude_categories=["Cs"]))


def published_words(text: str, *, lower_case: bool) -> list[str]:
    """Returns the words of BERT's basic tokenization, with the published steps in their order."""
    clean = ""
    for c in text:
        code, category = ord(c), unicodedata.category(c)
        if c in "\t\n\r" or category == "Zs":
            clean += " "
        elif code in (0, 0xFFFD) or category in ("Cc", "Cf"):
            continue
        elif (
            0x4E00 <= code <= 0x9FFF
            or 0x3400 <= code <= 0x4DBF
            or 0x20000 <= code <= 0x2A6DF
            or 0x2A700 <= code <= 0x2B73F
            or 0x2B740 <= code <= 0x2B81F
            or 0x2B820 <= code <= 0x2CEAF
            or 0xF900 <= code <= 0xFAFF
            or 0x2F800 <= code <= 0x2FA1F
        ):
            clean += " " + c + " "
        else:
            clean += c
    split = []
    for token in clean.split():
        if lower_case:
            token = unicodedata.normalize("NFD", token.lower())
            token = "".join(c for c in token if unicodedata.category(c) != "Mn")
        new_word = True
        for c in token:
            code = ord(c)
            ascii_symbol = (
                33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
            )
            if ascii_symbol or unicodedata.category(c)[0] == "P":
                split.append(c)
                new_word = True
            elif new_word:
                split.append(c)
                new_word = False
            else:
                split[-1] += c
    return " ".join(split).split()


def published_pieces(text: str, tokenizer: WordPiece) -> list[str]:
    output = []
    for word in published_words(text, lower_case=tokenizer.lower_case):
        if len(word) > tokenizer.max_word_length:
            output.append("[UNK]")
            continue
        start, found = 0, []
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in tokenizer.pieces:
                    break
            else:
                found = ["[UNK]"]
                break
            found.append(piece)
            start = end
        output += found
    return output
