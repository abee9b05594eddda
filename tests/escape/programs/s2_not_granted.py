# /// escape
# promise = "S2"
# trick = "It asks for a capability that others have and it has not"
# network = "allow:semantic-scholar"
# control = { local = ["granted capabilities"], docker = ["granted capabilities"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# ///
import urllib.request

from inside import attempt

for place in ("openalex/works?search=a&per-page=1", "arxiv/api/query?search_query=a&max_results=1", "llm/v1/messages"):
    attempt(place, lambda place=place: urllib.request.urlopen(f"http://127.0.0.1:3128/{place}", timeout=5).read())
