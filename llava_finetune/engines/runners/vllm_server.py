"""Serve an exported folder with vLLM on this machine until standard input ends; the address is one JSON line.

python vllm_server.py '{"model": "exported", "dtype": "float32", "context": 2048, "port": 8125}'
"""

import json
import os
import subprocess
import sys
import time
import urllib.request


def main() -> None:
    """Start the server by its module (its command looks for another package's name) and wait until it answers."""
    wanted = json.loads(sys.argv[1])
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    url = f"http://127.0.0.1:{wanted['port']}"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", wanted["model"]]
    command += ["--dtype", wanted["dtype"]]  # vLLM's own choice, auto, computes a float32 folder in 16 bit
    command += ["--host", "127.0.0.1", "--port", str(wanted["port"]), "--max-model-len", str(wanted["context"])]
    command += ["--limit-mm-per-prompt", '{"image": 4}', "--enforce-eager", "--max-logprobs", "20"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        while not answers(url):
            if server.poll() is not None:
                sys.exit(f"vLLM ended with exit code {server.returncode}")
            time.sleep(1)
        with urllib.request.urlopen(f"{url}/version") as reply:
            version = json.load(reply)["version"]
        print(json.dumps({"url": url, "version": f"vllm {version}"}), flush=True)
        sys.stdin.read()
    finally:
        server.terminate()
        server.wait(30)


def answers(url: str) -> bool:
    """Whether the server is up."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
