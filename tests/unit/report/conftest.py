import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # synthetic_suite, which the tests of analysis and browser use too
