"""Values that look as if they told who a patient is: dates, numbers of records, addresses, names."""

from __future__ import annotations

import re
import unicodedata

from medsd_ray.data.free_text import signs_of_identity

_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zä]*\b"
_DATES = (
    r"\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}(?!\d*\.)",  # 12.03.1950, 1950-03-12
    r"\A(?:(?:19|20)\d{2}[/.-]\d\d?|\d\d?[/.-](?:19|20)\d{2}|(?:19|20)\d{2})\Z",  # 1950-03, 03/1950, 1950
    r"(?<!\d)(?:19|20)\d{2}[01]\d[0-3]\d(?!\d)",  # 19500312
    rf"(?:\d{{1,2}}|\d{{4}})[ .-]*{_MONTH}[ .,-]*\d{{2,4}}",  # 12 Mar 1950
    rf"\b{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}",  # March 3, 1950
    r"\d:\d\d:\d\d|(?<!\d)(?:19|20)\d{12}(?!\d)",  # a time; DICOM's 20200102101112
)
_NUMBERS = (
    r"(?<![\d.])\d(?:[ -]?\d){4,}",  # five digits and more, a telephone's too
    r"\d+(?:\.\d+){3,}",  # a UID of DICOM
    r"\b[A-Za-z]{1,8}[-_ #:]{0,2}\d{3,}",  # MRN 4711
    r"\A\d{3,}[-_ ]?(?![YMWD]\Z)[A-Za-z]+\Z",  # 4711A, but not DICOM's age of 045Y
    r"[0-9a-f]{8}-?[0-9a-f]{4}",  # a UUID, a checksum
)
_ADDRESSES = (r"\w@\w", r"(?:street|strasse|straße|avenue|road)\b")
_TITLED = (r"\w\^\w", r"\A(?:Herr|Frau|Hr|Fr|Mme|Sr|Sra|Sig|Dott)\b\.? +\w")
_FILE = re.compile(
    r"[^\s.]\.(?:png|jpe?g|bmp|tiff?|gif|webp|dcm|dicom|nii|mh[ad]|nrrd|npy)(?:\.gz)?\Z", re.IGNORECASE
)
_SIGNS = {
    "a date": re.compile("|".join(_DATES), re.IGNORECASE),
    "a record number": re.compile("|".join(_NUMBERS)),
    "an address": re.compile("|".join(_ADDRESSES), re.IGNORECASE),
    "a name": re.compile("|".join(_TITLED)),
    "a file's name": _FILE,
}
_MEASURE = re.compile(r"[-+]?\d{0,4}\.\d+(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")

# Frequent given and family names, without those that reports have as words (Grace, Mark, Young, Brown).
_NAMES = """
    aaron abdul adam agnes ahmed alan albert alejandro alex alexander alexandra ali alice alison amanda
    amelia amy ana andrea andreas andrew angela anita ann anna anne annette annie anthony antonio arthur
    ashley barbara beatrice benjamin bernard bernd betty bob brandon brenda brian bruce carl carlos
    carmen carol caroline catherine charles charlotte cheryl chris christian christina christine
    christopher claire clara claudia cynthia daniel daniela david deborah debra dennis diana diane
    dieter dmitri donald donna doris dorothy douglas edith edward eleanor elena elizabeth ellen emily
    emma eric erika ernest esther ethan eugene eva evelyn fatima fernando francesca francesco francis
    francisco franz fred frederick friedrich fritz gabriel gary george gerald gerhard giovanni giuseppe
    gloria gregory guillermo gustav hannah hans harold hassan heather heidi heinrich helen helga helmut
    henri henry herbert horst howard hugo ian ibrahim ingrid irene isabel isabella ivan jack jacob
    jacqueline jacques james jan jane janet janice jason javier jean jeffrey jennifer jeremy jerry
    jessica jesus jim joan joanna joe johann johannes john johnny jonathan jordan jorge jose josef
    joseph joshua joyce juan judith judy julia julian julie justin jürgen karen karin karl katharina
    katherine kathleen kathryn katie keith kelly kenneth kevin klaus kumar kurt kyle larry laura lauren
    lawrence leonard linda lisa logan lois louis louise luca lucas lucia lucy luigi luis lukas madison
    manfred manuel marco marcus margaret maria marie marilyn mario marion marta martha martin mary
    matteo matthew maximilian megan melissa michael michel michelle miguel mohamed mohammad mohammed
    monica monika muhammad nancy natalie natasha nathan nicholas nicolas nicole nikolai noah norbert
    olga oliver olivia oscar otto pablo pamela patricia patrick paul paula pedro peter petra philip
    philipp philippe pierre rachel rafael ralph ramona raymond rebecca renate richard robert roberto
    roger roland ronald rosa rosemarie rudolf russell ruth ryan sabine samantha samuel sandra sara sarah
    scott sean sergei sergio sharon shirley silvia simone sofia sophia sophie stefan stephanie stephen
    steven susan susanne sven teresa theodore theresa thomas timothy tobias tyler ulrich ursula vanessa
    vera veronica victoria viktor vincent vladimir walter werner wilhelm william wolfgang yusuf yvonne
    zoe anderson bauer becker davis doe dupont evans fernandez fischer garcia gomez gonzalez hansen
    harris hernandez hoffmann huber ivanov jackson jansen jensen johansson johnson jones kim klein
    kowalski lewis lopez martinez meier mendez meyer miller mitchell moreno müller mueller murphy nguyen
    nielsen novak patel perez petrov phillips ramirez rivera roberts robinson rodriguez rossi sanchez
    schmidt schneider schulz schwarz silva singh smith taylor thompson torres turner wagner weber
    williams wilson zimmermann
"""
_NAME = frozenset(_NAMES.split())


def names_file(value: str) -> bool:
    """Whether a value looks like the name of an image's file."""
    return bool(_FILE.search(value.strip()))


def identifying_value(value: str) -> str | None:
    """What of a person a value looks like, such as "a date"; None for a class or a measure."""
    text = unicodedata.normalize("NFC", value.strip())
    if not text or _MEASURE.fullmatch(text):
        return None
    for sign, pattern in _SIGNS.items():
        if pattern.search(text):
            return sign
    words = _WORD.findall(text)
    if words and len(words) <= 4 and {words[0].casefold(), words[-1].casefold()} & _NAME:
        return "a name"
    return next(iter(signs_of_identity(text)), None)
