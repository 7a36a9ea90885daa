"""What the invented companies, persons and deals are called."""

from __future__ import annotations

__all__ = [
    "CITIES",
    "COMPANY_BRANCHES",
    "COMPANY_FAMILIES",
    "FIRST_NAMES",
    "LAST_NAMES",
    "POSITIONS",
    "PRODUCTS",
]

COMPANY_FAMILIES = (
    "Ahlberg",
    "Bergkvist",
    "Dalsjö",
    "Ekhamn",
    "Falkvik",
    "Granbacka",
    "Hallonby",
    "Kvarnström",
    "Lindesund",
    "Norrfors",
    "Sandviken",
    "Tallberga",
)
COMPANY_BRANCHES = (
    "Bygg AB",
    "Data AB",
    "Energi AB",
    "Fastigheter AB",
    "Livs AS",
    "Logistik AB",
    "Maskin Oy",
    "Papper ApS",
    "Transport AB",
)
CITIES = ("Lund", "Göteborg", "Oslo", "Tampere", "Aarhus", "Umeå", "Bergen", "Malmö")
FIRST_NAMES = (
    "Aino",
    "Anders",
    "Birgitta",
    "Elin",
    "Erik",
    "Freja",
    "Håkon",
    "Ingrid",
    "Jonas",
    "Karin",
    "Lars",
    "Mikkel",
    "Sofia",
)
LAST_NAMES = (
    "Andersson",
    "Dahl",
    "Eriksson",
    "Hansen",
    "Järvinen",
    "Karlsson",
    "Larsen",
    "Lindqvist",
    "Nyström",
    "Olsen",
    "Virtanen",
)
POSITIONS = ("CEO", "CFO", "Buyer", "Head of sales", "Site manager", "IT manager")
PRODUCTS = ("Support agreement", "Licences", "Training days", "Upgrade", "New installation")
