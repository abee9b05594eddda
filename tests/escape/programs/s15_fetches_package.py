# /// escape
# promise = "S15"
# trick = "It fetches a package while it runs"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# ///
import urllib.request

from inside import attempt, told

PORT = told()["port"]
for place in (
    f"http://packages.example:{PORT}/simple/unfamiliar/",
    f"http://151.101.0.223:{PORT}/simple/",
    "http://packages.example/",
):
    attempt(place, lambda place=place: urllib.request.urlopen(place, timeout=1).read())
