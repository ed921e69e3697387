"""Jupyter kernels that start at once: forks of one process that has the large libraries in memory.

A notebook spends five seconds on importing PyTorch and its friends, the book's notebooks minutes. `Fork`, a provisioner of
kernels as jupyter_client defines them, asks a server, `python tools/forks.py`, for one: a fork of it with a session, a folder and
an environment of its own that runs the same IPython kernel. What a notebook imports, sets or changes stays in its fork, and
nothing that it imports differs from what a fresh process would find.
"""
import atexit, importlib, json, os, signal, subprocess, sys

from jupyter_client.provisioning import LocalProvisioner

LIBRARIES = "torch", "transformers.models.llama.modeling_llama", "matplotlib.figure", "matplotlib.backends.backend_agg"


class Kernel:
    "A forked kernel, with what Jupyter asks of a `Popen`"
    stdin = stdout = stderr = None

    def __init__(self, pid): self.pid, self.ended = pid, None

    def poll(self):
        if self.ended is None:
            try: os.kill(self.pid, 0)
            except ProcessLookupError: self.ended = 0            # its exit code is nobody's
        return self.ended

    def wait(self): return self.poll()                           # Jupyter waits by polling, and asks then
    def send_signal(self, number): os.kill(self.pid, number)
    def kill(self): self.send_signal(signal.SIGKILL)
    def terminate(self): self.send_signal(signal.SIGTERM)


class Fork(LocalProvisioner):
    "Provides kernels by this process's server, which the first one starts and which ends with this process"

    server = None

    async def launch_kernel(self, cmd, cwd, env, **kw):
        if not Fork.server:
            env = dict(env, MPLBACKEND="module://matplotlib_inline.backend_inline")      # as an IPython kernel sets it
            Fork.server = subprocess.Popen([sys.executable, __file__], text=True, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        asked = dict(argv=cmd[cmd.index("ipykernel_launcher") + 1:], cwd=str(cwd), env=env)
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        if not (said := self.server.stdout.readline()): raise RuntimeError("the server of kernels has ended; what it died of is on stderr")
        self.pid = self.pgid = int(said)
        self.process, self.cwd = Kernel(self.pid), cwd
        return self.connection_info


class Late:
    "What `sys.stderr` is when it is written to: loggers keep the one that they find"
    buffer = property(lambda self: sys.__stderr__.buffer)
    def __getattr__(self, name): return getattr(sys.__stderr__ if sys.stderr is self else sys.stderr, name)


def warm_up():
    """Load the default model once, if it is there, for what stays when it is gone: modules, compiled code, files in the
    system's memory. Each fork loads a model of its own, by the loader that a reader's kernel has"""
    from specdec_nb.models import hub, native
    if hub.default_gguf() is None: return
    hub.load_hf()
    native.load_default()


def serve():
    "For each line of stdin, `{argv, cwd, env}`, a kernel; its process id goes to stdout"
    from ipykernel import kernelapp
    sys.stderr = Late()
    for name in LIBRARIES: importlib.import_module(name)
    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)                # nobody waits for a kernel
    for line in sys.stdin:
        leads, lead = os.pipe()
        if pid := os.fork():
            os.close(lead)
            os.read(leads, 1)                                    # until it leads its own session
            os.close(leads)
            print(pid, flush=True)
        else:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.close(leads), os.close(lead)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(2, 1)
            asked = json.loads(line)
            os.chdir(asked["cwd"])
            os.environ.clear()
            os.environ.update(asked["env"])
            try: kernelapp.launch_new_instance(asked["argv"], parent_handle=os.getppid())
            finally:
                atexit._run_exitfuncs()
                os._exit(0)                                      # to take the libraries down takes a second and more


if __name__ == "__main__":
    del sys.path[0]                                              # tools/: a kernel finds what a fresh one finds
    serve()
