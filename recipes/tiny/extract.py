"""Turn the World Factbook (field path -> text, one JSON line per country) into the short facts that headwater ships.

    python -m recipes.tiny.extract --data FOLDER        # FOLDER/text/factbook/factbook_fields.jsonl

Writes `countries.jsonl` (a line per country: name, answers, neighbours) and `splits.json` to `headwater.data.factbook`.
Answers are kept short: years, parentheses, estimates and HTML entities go, lists keep their first entry.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[2] / "src" / "headwater" / "data" / "factbook"
SEED = 20261121
LONGEST = 60
NAMES = {
    "africa/cf.json": "Congo Republic",
    "africa/cg.json": "Democratic Republic of the Congo",
    "africa/ct.json": "Central African Republic",
    "africa/ga.json": "Gambia",
    "africa/sh.json": "Saint Helena",
    "australia-oceania/fm.json": "Micronesia",
    "central-america-n-caribbean/bf.json": "Bahamas",
    "central-america-n-caribbean/dr.json": "Dominican Republic",
    "europe/vt.json": "Vatican City",
    "middle-east/ae.json": "United Arab Emirates",
    "middle-east/gz.json": "Gaza Strip",
    "south-america/fk.json": "Falkland Islands",
}
NOT_COUNTRIES = ("oceans/", "world/", "meta/", "antarctica/", "europe/ee.json", "south-asia/io.json")
OFFICES = (  # everything up to the last of these words is an office, not a name
    "President|Prime Minister|Premier|Chancellor|Chief Minister|Chief Executive|Governor|Administrator|Mayor|Emir|Amir|"
    "Minister|Government|Political Affairs|Government of Spain|Confederation|of Ministers|Assembly|Council|"
    "French Polynesia|Faroe Islands|State|Lt.|Gen.|Col.|Maj.|Dr.|Capt.|Crown Prince|Prince|King|Queen|Sultan|Sheikh|"
    "Sir|Taoiseach"
)


def plain(text: str) -> str:
    """One line of text without HTML entities, parentheses and doubled spaces."""
    text = unicodedata.normalize("NFC", html.unescape(html.unescape(text))).replace("\xa0", " ").replace("’", "'")
    for _ in range(3):
        text = re.sub(r"\s*\([^()]*\)", "", text)
    return re.sub(r"\s+", " ", text).strip()


def first(text: str, stops: str = ",;") -> str:
    """The first entry of a list."""
    return re.split(f"[{stops}]", plain(text))[0].strip()


def point(text: str) -> str:
    """A place name without its elevation."""
    name = re.sub(r"[ ,]*(more than |pre-eruption height was )?-?\d[\d,.]* ?m?\b.*$", "", plain(text)).strip(" ,")
    return "" if name.startswith("unnamed") else re.split(r" on | in |;|,", name)[0]


def matching(pattern: str) -> Callable[[str], str]:
    """The first match of a pattern, or nothing."""

    def clean(text: str) -> str:
        found = re.search(pattern, plain(text))
        return found.group(0) if found else ""

    return clean


def person(text: str) -> str:
    """A name without office and dates; surnames in capitals become ordinary words."""
    name = re.split(r"[;,]| since ", plain(text).replace('"', ""))[0]
    name = re.sub(rf"^.*\b({OFFICES})\s+", "", name)
    words = [
        w if re.fullmatch(r"[IVX]+", w) else re.sub(r"[^\W\d_]{2,}", lambda m: m[0].title(), w) for w in name.split()
    ]
    return " ".join(words)


def anthem(text: str) -> str:
    """The title of the anthem, without quotation marks."""
    text = html.unescape(text).replace("“", '"').replace("”", '"')
    found = re.search(r'"([^"]+)"', text)
    return plain(found.group(1)).strip(" ,") if found else ""


def currency(text: str) -> str:
    """The name of the currency without code and rate."""
    return re.sub(r"\s*per US dollar.*$", "", plain(text)).strip(" -")


def nothing_none(text: str) -> str:
    """The text, unless it says none."""
    text = first(text, ";")
    return "" if text.lower().startswith(("none", "no ")) else text


DATE = r"\b\d{1,2} (January|February|March|April|May|June|July|August|September|October|November|December)"
FIELDS: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
    "capital": (("Government / Capital / name",), lambda t: re.split(r"[;,]| in Romanian", plain(t))[0].strip()),
    "currency": (("Economy / Exchange rates / Currency",), currency),
    "highest_point": (("Geography / Elevation / highest point",), point),
    "lowest_point": (("Geography / Elevation / lowest point",), point),
    "internet_code": (("Communications / Internet country code",), matching(r"\.[a-z]{2}\b")),
    "nationality": (("People and Society / Nationality / adjective",), lambda t: re.split(r"[,;]| or ", plain(t))[0]),
    "government_type": (("Government / Government type",), lambda t: first(t, ";,")),
    "anthem": (("Government / National anthem(s) / title",), anthem),
    "legislature": (
        ("Government / Legislative branch / legislature name",),
        lambda t: re.split(r"[;,/]| or | - ", plain(t))[0],
    ),
    "national_holiday": (("Government / National holiday",), matching(DATE)),
    "independence": (("Government / Independence",), matching(f"^{DATE} \\d{{4}}")),
    "aircraft_prefix": (("Transportation / Civil aircraft registration country code prefix",), lambda t: first(t)),
    "region": (
        ("Geography / Location",),
        lambda t: re.split(r"[,;]| bordering| between| in the", plain(t).removeprefix("metropolitan France: "))[0],
    ),
    "official_name": (("Government / Country name / conventional long form",), nothing_none),
    "colors": (("Government / National color(s)",), lambda t: first(t, ";")),
    "symbol": (("Government / National symbol(s)",), lambda t: first(t)),
    "leader": (("Government / Executive branch / head of government",), person),
    "top_export": (("Economy / Exports - commodities / text",), lambda t: first(t)),
    "export_partner": (("Economy / Exports - partners / text",), lambda t: re.sub(r" \d+%$", "", first(t))),
    "crop": (("Economy / Agricultural products / text", "Economy / Agricultural products"), lambda t: first(t)),
    "time_zone": (
        ("Government / Capital / time difference",),
        lambda t: matching(r"^UTC ?[+-]?[\d:.]+")(t).replace(" ", "+"),
    ),
    "language": (
        ("People and Society / Languages / Languages", "People and Society / Languages"),
        matching(r"^[A-Z][A-Za-z'-]+( [A-Z][A-Za-z'-]+)?"),
    ),
    "area": (("Geography / Area / total",), matching(r"^[\d,.]+( million)? sq km")),
    "population": (("People and Society / Population / total",), matching(r"^[\d,]{3,}")),
    "coastline": (("Geography / Coastline",), matching(r"^[1-9][\d,.]* km")),
    "borders": (("Geography / Land boundaries / total",), matching(r"^[1-9][\d,.]* km")),
    "airports": (("Transportation / Airports",), matching(r"^[\d,]+")),
    "internet_users": (("Communications / Internet users / percent of population",), matching(r"^[\d.]+%")),
    "median_age": (("People and Society / Median age / total",), matching(r"^[\d.]+ years")),
    "life_expectancy": (
        ("People and Society / Life expectancy at birth / total population",),
        matching(r"^[\d.]+ years"),
    ),
    "urban_share": (("People and Society / Urbanization / urban population",), matching(r"^[\d.]+%")),
    "gdp_per_person": (
        tuple(f"Economy / Real GDP per capita / Real GDP per capita {year}" for year in (2024, 2023, 2022)),
        matching(r"^\$[\d,]+"),
    ),
}


BORDERS = "Geography / Land boundaries / border countries"
CALLED = {  # how border lists call a country -> how it is called here
    "Republic of the Congo": "Congo Republic",
    "The Gambia": "Gambia",
    "UAE": "United Arab Emirates",
    "UK": "United Kingdom",
    "US": "United States",
    "Cote d'Ivoire": "Côte d'Ivoire",
    "Czech Republic": "Czechia",
    "Macedonia": "North Macedonia",
}


def words(text: str) -> str:
    """Lower-case words between spaces, for whole-word containment."""
    return " " + " ".join(re.findall(r"\w+", text.lower())) + " "


def neighbours(text: str) -> dict[str, str]:
    """Name of a neighbour, as the text has it -> length of the border."""
    found = (re.fullmatch(r"(\D+) ([\d,.]+ km)", plain(part)) for part in re.split(r";|(?<=km),", text))
    return {entry[1]: entry[2] for entry in found if entry}


def read_countries(path: Path) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Relation -> answer and neighbour -> border of every place with a capital and at least 20 short facts."""
    countries: dict[str, dict[str, str]] = {}
    borders: dict[str, dict[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["path"].startswith(NOT_COUNTRIES):
            continue
        name = NAMES.get(row["path"]) or plain(row["name"])
        raw = {path.strip(): text for path, text in row["fields"]}
        facts = {}
        for relation, (paths, clean) in FIELDS.items():
            text = next((raw[p] for p in paths if p in raw), "")
            answer = clean(text).strip(" ,.;") if relation != "internet_code" else clean(text)
            if not 0 < len(answer) <= LONGEST or answer.lower().startswith(("none", "note", "no ", "na ")):
                continue
            if words(answer) in words(name):  # the title would state the answer in every document of the country
                continue
            facts[relation] = answer
        if len(facts) >= (20 if "capital" in facts else 24):
            countries[name] = facts
            borders[name] = neighbours(raw.get(BORDERS, ""))
    for name, lengths in borders.items():
        called = {CALLED.get(other, other): length for other, length in lengths.items()}
        borders[name] = {other: length for other, length in called.items() if other in countries}
    return dict(sorted(countries.items())), borders


def draw_splits(
    countries: dict[str, dict[str, str]], held_out: int = 40, development: int = 24
) -> dict[str, list[str]]:
    """Draw countries that no other country's name contains, that few other facts mention, and with 26 facts or more."""
    pool = []
    for name, facts in countries.items():
        inside = any(words(name) in words(other) for other in countries if other != name)
        mentions = sum(words(name) in words(a) for c, f in countries.items() if c != name for a in f.values())
        if len(facts) >= 26 and not inside and mentions <= 3:
            pool.append(name)
    random.Random(SEED).shuffle(pool)
    print(f"{len(pool)} of {len(countries)} countries may be drawn")
    return {"held_out": sorted(pool[:held_out]), "development": sorted(pool[held_out : held_out + development])}


def main() -> None:
    """Write the two files."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", default=os.environ.get("HEADWATER_DATA"), help="folder of the raw data sets")
    data = cli.parse_args().data
    if not data:
        cli.error("name the data folder with --data or HEADWATER_DATA")
    countries, borders = read_countries(Path(data) / "text" / "factbook" / "factbook_fields.jsonl")
    splits = draw_splits(countries)
    rows = [
        json.dumps({"name": name, "facts": facts, "neighbours": borders[name]}, ensure_ascii=False)
        for name, facts in countries.items()
    ]
    (OUTPUT / "countries.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (OUTPUT / "splits.json").write_text(
        json.dumps({"seed": SEED, **splits}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(f"{len(countries)} countries, {sum(map(len, countries.values()))} facts")


if __name__ == "__main__":
    main()
