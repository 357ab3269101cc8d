"""What the measuring processes of these tests are given."""

SETTINGS = {
    "distance": {"name": "mse"}, "device": "cpu", "threads": None, "points": 3, "components": None, "tf32": False,
    "keep_memory": False,
}  # fmt: skip
