import numpy as np

from wenxin_runtime.engine.constraints.bad_words import BadWords

VOCAB = 100


def banned(words: BadWords) -> set[int]:
    mask = np.full(-(-VOCAB // 32), -1, np.int32)
    words.restrict(mask)
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little") == 0).tolist())


def test_a_word_of_one_token_is_never_allowed():
    words = BadWords([(3,), (64,)], VOCAB)
    assert banned(words) == {3, 64}
    words.advance(5)
    assert banned(words) == {3, 64}


def test_the_last_token_is_banned_where_the_answer_ends_with_the_others():
    words = BadWords([(1, 2, 3), (2, 9), (2, 31)], VOCAB)
    assert banned(words) == set()
    words.advance(1)
    assert banned(words) == set()
    words.advance(2)
    assert banned(words) == {3, 9, 31}
    words.advance(7)
    assert banned(words) == set()


def test_only_the_end_of_the_answer_counts():
    words = BadWords([(1, 2, 3)], VOCAB)
    for token in (1, 2, 4, 2):
        words.advance(token)
    assert banned(words) == set()
