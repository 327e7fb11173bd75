"""What prompts name, in the words of the built-in captions and of MusicCaps."""

import re
import tomllib

import pytest

from src.data.files import ROOT
from src.models.adapter import PromptUnusable
from src.models.tags import NOT_TAGS, OPPOSITES, SYNONYMS, TAGS, Named, _expand, _words, named_tags


def wanted(prompt: str, tagger: str = "tags") -> set[str]:
    return set(named_tags(prompt, tagger).wanted)


def unwanted(prompt: str, tagger: str = "tags") -> set[str]:
    return set(named_tags(prompt, tagger).unwanted)


@pytest.mark.parametrize("verifier", ["tags", "tags_msd"])
def test_every_tag_names_itself_alone(verifier: str) -> None:
    for tag in TAGS[verifier]:
        for text in (tag, f"Some {tag.upper()}, please."):
            assert named_tags(text, verifier) == Named((tag,), ())


def test_every_synonym_names_its_tag() -> None:
    tags = {"tags": set(TAGS["tags"]), "tags_msd": set(TAGS["tags_msd"])}
    for tag, phrases in SYNONYMS.items():
        verifier = "tags" if tag in tags["tags"] else "tags_msd"
        assert tag in tags[verifier]
        for phrase in _expand(phrases):
            if " ".join(phrase) not in tags[verifier]:
                assert tag in wanted(" ".join(phrase), verifier)


def test_the_table_is_in_the_form_that_prompts_are_read_in() -> None:
    for phrases in (*SYNONYMS.values(), NOT_TAGS):
        for phrase in _expand(phrases):
            assert _words(" ".join(phrase)) == list(phrase)
    assert {*OPPOSITES, *OPPOSITES.values()} <= set(TAGS["tags"])


def test_phrases_that_only_look_like_a_tag_name_none() -> None:
    for phrase in _expand(NOT_TAGS):
        with pytest.raises(PromptUnusable):
            named_tags(" ".join(phrase), "tags")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A gentle acoustic guitar, strummed slowly", {"soft", "guitar", "slow"}),
        ("classical guitar music", {"guitar"}),
        ("classical music on guitar", {"classical", "guitar"}),
        ("Nylon-string guitar, up-tempo", {"guitar", "fast"}),
        ("baroque harpsichord, unhurried", {"classical", "harpsichord", "slow"}),
        ("an orchestra of strings plays adagio", {"strings", "slow"}),
        ("a choir of voices in four parts", {"choir"}),
        ("a vocal choir sings", {"choir", "singing"}),
        ("plucked harp", {"harp"}),
        ("harpsichord", {"harpsichord"}),
        ("Two cellists and a violinist", {"cello", "violin"}),
        ("synthesiser with drum kit", {"synth", "drums"}),
        ("SOLO VIOLIN!", {"solo", "violin"}),
        ("Indian sitar; presto.", {"indian", "sitar", "fast"}),
        ("a fast drum beat", {"fast", "drums"}),
        ("the beats are loud", {"beats", "loud"}),
        ("quick,lively/brisk flute", {"fast", "flute"}),
        ("up–tempo pianos", {"fast", "piano"}),
        ("Pianíssimo flûte", {"quiet", "flute"}),
        ("a female vocalist sings over a piano", {"female vocal", "singing", "piano"}),
        ("a woman’s voice", {"female voice"}),
        ("This is an instrumental waltz on harp", {"no vocals", "harp"}),
        ("breakfast with steadfast slowpokes and a flute", {"flute"}),
        ("a Scottish dance on the fiddle", {"violin"}),
        ("bass guitar and guitar", {"guitar"}),
    ],
)
def test_prompts_name_tags(prompt: str, expected: set[str]) -> None:
    named = named_tags(prompt, "tags")
    assert set(named.wanted) == expected
    assert named.unwanted == ()


@pytest.mark.parametrize(
    ("prompt", "meant", "negated"),
    [
        ("piano, no drums", {"piano"}, {"drums"}),
        ("no drums, piano", {"piano"}, {"drums"}),
        ("Piano without drums.", {"piano"}, {"drums"}),
        ("There are no drums. A harp plays.", {"harp"}, {"drums"}),
        ("there is no percussion in this harp piece", {"harp"}, {"drums"}),
        ("A drumless reel for violin", {"violin"}, {"drums"}),
        ("drum-free flute", {"flute"}, {"drums"}),
        ("not fast, a harp", {"harp"}, {"fast"}),
        ("It isn't very fast but it is loud", {"loud"}, {"fast"}),
        ("This is not a fast song, the cello plays slowly", {"cello", "slow"}, {"fast"}),
        ("The harp doesn't have any drums", {"harp"}, {"drums"}),
        ("piano; no bass, drums or guitar", {"piano"}, {"drums", "guitar"}),
        ("without drums and guitar, a piano", {"piano"}, {"drums", "guitar"}),
        ("no sort of heavy drums: flute", {"flute"}, {"drums"}),
        ("neither drums nor guitar, just a flute", {"flute"}, {"drums", "guitar"}),
        ("no loud electric guitar, a choir", {"choir"}, {"loud", "guitar"}),
        ("no drums and slow piano", {"slow", "piano"}, {"drums"}),
        ("flute, the drums and the guitar are absent", {"flute"}, {"drums", "guitar"}),
        ("flute. The drums are not heard", {"flute"}, {"drums"}),
        ("not slow, not fast, harp", {"harp"}, {"slow", "fast"}),
        ("no drums nor guitar; harp", {"harp"}, {"drums", "guitar"}),
        ("flute, drums and guitar are absent", {"flute"}, {"drums", "guitar"}),
        ("piano instead of guitar", {"piano"}, {"guitar"}),
        ("a cello lacking drums", {"cello"}, {"drums"}),
        ("a sitar with no drums at all", {"sitar"}, {"drums"}),
        ("sitar not accompanied by drums", {"sitar"}, {"drums"}),
        ("no instruments other than a piano", {"piano"}, set()),
        ("nothing but a piano", {"piano"}, set()),
        ("not only piano", {"piano"}, set()),
        ("not without drums", {"drums"}, set()),
        ("Symphony no. 5 on piano", {"classical", "piano"}, set()),
        ("a poor, not well recorded piano", {"piano"}, set()),
        ("no drums", set(), {"drums"}),
        # An absent voice is a tag itself.
        ("piano, no vocals", {"piano", "no vocals"}, set()),
        ("no voice", {"no voice"}, set()),
        ("piano without vocals", {"piano", "no vocals"}, set()),
        ("there isn't any singing, guitar", {"guitar", "no vocals"}, set()),
        ("no voices", {"no voice"}, set()),
        ("no vocals or drums, fast", {"no vocals", "fast"}, {"drums"}),
        ("no drums or vocals, fast", {"no vocals", "fast"}, {"drums"}),
        ("no female vocals, harp", {"harp"}, {"female vocal"}),
        ("no choir, harp", {"harp"}, {"choir"}),
    ],
)
def test_negations_turn_a_tag_around(prompt: str, meant: set[str], negated: set[str]) -> None:
    assert (wanted(prompt), unwanted(prompt)) == (meant, negated)


def test_a_tag_that_is_named_and_negated_is_wanted() -> None:
    prompt = "no drums at first, then the drums enter"
    assert named_tags(prompt, "tags") == Named(("drums",), ())


def test_tags_come_once_in_order_of_first_mention() -> None:
    prompt = "slow piano, a pianist plays slowly, violin, no guitar, no drums, not a drummer"
    assert named_tags(prompt, "tags") == Named(("slow", "piano", "violin"), ("guitar", "drums"))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        # a land, or the style
        ("a flute from an Asian country", {"flute"}),
        ("like a harp in a foreign country, or in another country", {"harp"}),
        ("piano on a country road", {"piano"}),
        ("an Asian country song", {"country"}),
        ("a blend of American country and rock", {"country", "rock"}),
        ("the country genre", {"country"}),
        # what things are made of
        ("someone hits a metal pipe, piano", {"piano"}),
        ("a metal song with flute", {"metal", "flute"}),
        # places, things, sayings
        ("a harp in an opera house, or at a hard rock cafe", {"harp"}),
        ("a rock solid groove of drums for a fast food advert", {"drums"}),
        ("waves of the Indian Ocean, a new age of harps", {"harp"}),
        ("120 beats per minute, synth every two beats", {"synth"}),
        ("a classic hip hop beat", {"beat"}),
        ("classic music for piano", {"classic", "piano"}),
        # what is heard beside the music
        ("a cello in a quiet room, loud applause, soft hiss", {"cello"}),
        ("ambient street noise, a gentle flute", {"soft", "flute"}),
        ("birds singing over a slow harp", {"slow", "harp"}),
        ("the synth slowly fades in", {"synth"}),
        # who plays is no voice
        ("a man playing the guitar, a female pianist", {"guitar", "piano"}),
        ("a man singing in falsetto", {"male vocal"}),
        # an instrumental passage has no say about voices
        ("female vocals with instrumental accompaniment", {"female vocal"}),
        ("an instrumental piece for guitar", {"no vocals", "guitar"}),
        ("a piano under a catchy chorus", {"piano"}),
        ("a children's chorus", {"choir"}),
        ("no one is singing, nobody sings, harp", {"no vocals", "harp"}),
    ],
)
def test_a_word_means_what_the_words_beside_it_say(prompt: str, expected: set[str]) -> None:
    assert (wanted(prompt), unwanted(prompt)) == (expected, set())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a techno party in a house, funk", {"party", "funk"}),
        ("a deep house track", {"House"}),
        ("it soothes the soul, jazz", {"jazz"}),
        ("a soul song", {"soul"}),
        ("a folk tale over blues", {"blues"}),
        ("an alternative to pop", {"pop"}),
    ],
)
def test_words_of_the_other_vocabulary_too(prompt: str, expected: set[str]) -> None:
    assert wanted(prompt, "tags_msd") == expected


def test_free_text_as_in_musiccaps() -> None:
    prompt = (
        "The low quality recording features a ballad song that contains sustained strings, mellow "
        "piano melody and soft female vocal singing over it. It sounds sad and soulful, like "
        "something you would hear at Sunday services. There are no drums and the tempo is slow."
    )
    assert named_tags(prompt, "tags") == Named(
        ("strings", "soft", "piano", "female vocal", "singing", "slow"), ("drums",)
    )
    assert wanted(prompt, "tags_msd") == {"Mellow", "female vocalists", "sad", "soul"}


def test_each_tagger_reads_a_prompt_in_its_own_vocabulary() -> None:
    prompt = "cheerful 1980s hip-hop with acoustic guitar, no vocals"
    assert wanted(prompt, "tags") == {"guitar", "no vocals"}
    assert wanted(prompt, "tags_msd") == {
        "happy", "80s", "Hip-Hop", "guitar", "acoustic", "instrumental"
    }  # fmt: skip


@pytest.mark.parametrize("prompt", ["", "  ", "...", "a marimba ostinato", "♫", "no", "ＢＡＳＳ"])
def test_a_prompt_that_names_no_tag_is_told_where_they_are(prompt: str) -> None:
    with pytest.raises(PromptUnusable, match=f"'{re.escape(prompt)}' names no tag") as error:
        named_tags(prompt, "tags")
    (path,) = re.findall(r"src/\S+\.toml", str(error.value))
    assert set(TAGS["tags"]) <= set(
        tomllib.loads((ROOT / path).read_text())["tags"]["magnatagatune"]
    )


def test_a_very_long_prompt_is_read_quickly() -> None:
    assert wanted("no drums or loud guitar, " * 100 + "nothing. piano") == {"piano"}
