# /// escape
# promise = "S3"
# trick = "It takes memory without end"
# verdict = "out_of_memory"
# limits = { memory_mib = 64 }
# control = { local = ["memory"], docker = ["memory"] }
# ///
from inside import got

held = [b"x" * 1_000_000 for _ in range(200)]
got("memory", f"{len(held)} MB, three times the limit")
