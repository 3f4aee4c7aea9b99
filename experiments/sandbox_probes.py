"""Programs that try to escape a sandbox or to exceed its limits.

Each is a script for `sandbox_check`. It reads what it needs to know about the
host as JSON from standard input and prints ESCAPED if it succeeds; what cannot
be seen from inside, `sandbox_check` checks from outside.
"""

from __future__ import annotations

_HEAD = """
import json, os, sys, time
host = json.loads(sys.stdin.readline())
def escaped(how=""):
  print("ESCAPED", how, flush=True)
def libc():
  import ctypes
  return ctypes.CDLL(None, use_errno=True)
"""

_CONNECT = """
import socket
try:
  with socket.socket(%s) as s:
    s.settimeout(2)
    s.connect(%s)
    escaped()
except OSError:
  pass
"""

# Script of each probe by the name of what it tries.
PROBES: dict[str, str] = {
    "infinite loop": "while True: pass",
    "sleep": "time.sleep(1000)",
    "memory": """
held = bytearray(2 << 30)
held[::4096] = b"x" * len(held[::4096])
escaped()
""",
    "memory of many processes": """
for _ in range(12):
  if not os.fork():
    held = b"x" * (150 << 20)
    time.sleep(2)
    os._exit(0)
time.sleep(2)
escaped()
""",
    "memory while it prints": """
for _ in range(12):
  if not os.fork():
    held = b"x" * (150 << 20)
    time.sleep(2)
    os._exit(0)
end = time.monotonic() + 2
while time.monotonic() < end:
  print("x" * 50, flush=True)
  time.sleep(0.001)
escaped()
""",
    "refused system calls": """
import platform
c = libc()
ptrace, unshare, userfaultfd = {
    "x86_64": (101, 272, 323), "aarch64": (117, 97, 282)}.get(
        platform.machine(), (0, 0, 0))
for number, argument in ((ptrace, 0), (unshare, 0x200), (userfaultfd, 1)):
  if number and c.syscall(number, argument, 0, 0, 0) >= 0:
    escaped(str(number))
""",
    "memory that is shared": """
c = libc()
c.shmat.restype = __import__("ctypes").c_void_p
for _ in range(16):
  name = c.shmget(0, 100 << 20, 0o1600)
  at = c.shmat(name, None, 0)
  if name < 0 or at in (None, 2 ** 64 - 1):
    sys.exit()
  __import__("ctypes").memset(at, 1, 100 << 20)
  c.shmdt(__import__("ctypes").c_void_p(at))
time.sleep(1)
escaped()
""",
    "memory in files without a name": """
held = []
for _ in range(50):
  held.append(os.memfd_create("x"))
  for _ in range(15):
    os.write(held[-1], b"x" * (1 << 20))
time.sleep(1)
escaped()
""",
    "output flood": """
for _ in range(32):
  sys.stdout.write("x" * (1 << 18))
escaped()
""",
    "large file": """
with open("/tmp/large", "wb") as f:
  for _ in range(64):
    f.write(b"x" * (1 << 20))
escaped()
""",
    "many files": """
for i in range(64):
  with open(f"/tmp/{i}", "wb") as f:
    f.write(b"x" * (1 << 20))
escaped()
""",
    "files elsewhere": """
for folder in ("/", "/dev", "/dev/shm", "/usr", "/usr/lib", "/var/tmp", "/run",
               "/proc", "/sys/fs/cgroup", "/home"):
  try:
    open(folder + "/r1jax-probe", "w").close()
    os.unlink(folder + "/r1jax-probe")
    escaped(folder)
  except OSError:
    pass
""",
    "fork bomb": """
count = 0
try:
  for count in range(300):
    if not os.fork():
      time.sleep(30)
      os._exit(0)
except OSError:
  pass
if count > 200:
  escaped(str(count))
""",
    "process left behind": """
if not os.fork():
  os.setsid()
  os.execv(sys.executable, [
      sys.executable, "-c", "import time; time.sleep(30)", host["mark"]])
time.sleep(0.3)
""",
    "connect to loopback": _CONNECT % (
        "socket.AF_INET", '("127.0.0.1", host["port"])'),
    "connect to abstract socket": _CONNECT % (
        "socket.AF_UNIX", 'chr(0) + host["socket"]'),
    "connect to internet": _CONNECT % ("socket.AF_INET", '("1.1.1.1", 53)'),
    "read host files": """
for path in ("/etc/passwd", "/etc/hostname", "/etc/shadow", "/root", "/home",
             host["file"]):
  try:
    os.listdir(path) if os.path.isdir(path) else open(path).read()
    escaped(path)
  except OSError:
    pass
""",
    "write host file": """
with open(host["file"], "a") as f:
  f.write("x")
escaped()
""",
    "see host processes": """
if sum(name.isdigit() for name in os.listdir("/proc")) > 6:
  escaped()
""",
    "read environment of launcher": """
for name in os.listdir("/proc"):
  try:
    with open(f"/proc/{name}/environ", "rb") as f:
      if host["variable"].encode() in f.read():
        escaped(name)
  except OSError:
    pass
if host["variable"] in os.environ:
  escaped("os.environ")
""",
    "new user namespace": """
if libc().unshare(0x10000000) == 0:
  escaped()
""",
    "become root": """
for become in (os.setuid, os.setgid):
  try:
    become(0)
    escaped(become.__name__)
  except OSError:
    pass
""",
    "mount": """
if libc().mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
  escaped()
""",
    "capabilities": """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
for name in ("CapEff", "CapPrm", "CapAmb"):
  if int(status[name], 16):
    escaped(name)
if status["NoNewPrivs"].strip() != "1":
  escaped("new privileges")
""",
    "make a device": """
import stat
os.mknod("/tmp/device", stat.S_IFBLK | 0o600, os.makedev(8, 0))
escaped()
""",
    "signal the launcher": """
os.kill(host["pid"], 0)
escaped()
""",
    "trace the launcher": """
if libc().ptrace(16, host["pid"], None, None) == 0:
  escaped()
""",
    "type on the terminal": """
import fcntl
for descriptor in range(3):
  try:
    fcntl.ioctl(descriptor, 0x5412, b"x")  # TIOCSTI
    escaped(str(descriptor))
  except OSError:
    pass
try:
  os.open("/dev/tty", os.O_RDWR)
  escaped("/dev/tty")
except OSError:
  pass
""",
    "end the harness": """
import signal
for number in (signal.SIGSTOP, signal.SIGKILL):
  os.kill(os.getppid(), number)
time.sleep(0.2)
if os.getppid() != 1:
  escaped()
os.execv(sys.executable, [
    sys.executable, "-c", "import time; time.sleep(30)", host["mark"]])
""",
    "read expected values": """
import gc, re
wanted = re.compile(b"expected-" + b"value-([0-9a-f]{16})")
texts = [repr(gc.get_objects()).encode()]
frame = sys._getframe()
while frame:
  texts.append(repr(frame.f_globals).encode() + repr(frame.f_locals).encode())
  frame = frame.f_back
for pid in ("self", str(os.getppid()), "1"):
  for part in ("cmdline", "environ"):
    try:
      texts.append(open(f"/proc/{pid}/{part}", "rb").read())
    except OSError:
      pass
  try:
    memory = open(f"/proc/{pid}/mem", "rb")
    for line in open(f"/proc/{pid}/maps"):
      first, last = [int(n, 16) for n in line.split()[0].split("-")]
      if "r" in line.split()[1] and last - first < 1 << 26:
        try:
          memory.seek(first)
          texts.append(memory.read(last - first))
        except (OSError, ValueError, OverflowError):
          pass
  except OSError:
    pass
for folder, _, names in os.walk("/tmp"):
  texts += [open(os.path.join(folder, n), "rb").read() for n in names]
if any(map(wanted.search, texts)):
  escaped()
""",
    "forge a reply": """
for pid in ("self", str(os.getppid())):
  for number in range(64):
    try:
      descriptor = os.open(f"/proc/{pid}/fd/{number}", os.O_WRONLY)
      os.write(descriptor, b'{"status": "ok", "value": "forged"}\\n')
    except OSError:
      pass
""",
}


def source(name: str) -> str:
  """The script of a probe."""
  return _HEAD + PROBES[name]
