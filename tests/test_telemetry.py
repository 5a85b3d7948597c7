import subprocess
import sys


def test_onnx_runtime_is_told_not_to_report_home() -> None:
    program = "import shortlist, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1"
