"""Build the site from the notebooks, with their stored outputs; a warning is an error.

    python tools/sitebuild.py [FOLDER]     default: _docs; open _docs/html/index.html
"""
import shutil, subprocess, sys, tarfile, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MATHJAX = "mathjax@3.2.2"


def mathjax(to=ROOT/"docs/_static/mathjax/tex-svg.js"):
    "Fetch MathJax from npm once, so that pages render without a network; False if that can't be done"
    if to.exists(): return True
    if not (npm := shutil.which("npm")): return False
    with tempfile.TemporaryDirectory() as tmp:
        r = subprocess.run([npm, "pack", "--silent", MATHJAX], cwd=tmp, capture_output=True, text=True)
        if r.returncode: return False
        with tarfile.open(next(Path(tmp).glob("*.tgz"))) as tar:
            js = tar.extractfile("package/es5/tex-svg.js").read()
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(js)
    return True


def build(out=ROOT/"_docs", **kw):
    "Run Sphinx; the completed process"
    if not mathjax():
        print(f"warning: npm could not fetch {MATHJAX}: pages will load it from a CDN", file=sys.stderr)
    return subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html",
                           "-c", ROOT/"docs", "-d", Path(out)/"doctrees", ROOT/"nbs", Path(out)/"html"], **kw)


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT/"_docs").resolve()
    if code := build(out).returncode: sys.exit(code)
    print(out/"html/index.html")
