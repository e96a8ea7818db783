"""python check_contents.py WHEEL: everything the package needs is in the wheel, and little else."""

import sys
import zipfile

wheel = zipfile.ZipFile(sys.argv[1])
names = set(wheel.namelist())
size = sum(info.compress_size for info in wheel.infolist() if "/embedded/" in info.filename)
for needed in (
    "dystress_jax/py.typed",
    "dystress_jax/run/_train.py",
    "dystress_jax/commands/train.py",
    "dystress_jax/configs/quickstart.py",
    "dystress_jax/data/embedded/NOTICE.md",
    "dystress_jax/data/embedded/fluent.webp",
    "dystress_jax/data/embedded/patches_train.webp",
    "dystress_jax/explorer/page.html",
    "dystress_jax/explorer/curves.js",
    "dystress_jax/report/page.html",
    "dystress_jax/report/style.css",
):
    assert needed in names, f"{needed} is not in the wheel"
whole = sum(info.compress_size for info in wheel.infolist())
assert 100_000 < size <= 4_000_000, f"the embedded images take {size} bytes"
assert whole <= 5_000_000, f"the wheel takes {whole} bytes"
strangers = [n for n in names if not n.startswith(("dystress_jax/", "dystress_jax-"))]
assert not strangers, strangers
print(f"{len(names)} files, embedded images {size:,} bytes")
