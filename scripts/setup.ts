/**
 * Installs everything that the repository needs on a fresh machine: Bun's packages into node_modules, and two Python
 * environments, `.venv` (numpy, torch, tools) and `.venv-numpy2` (numpy 2, no torch). A second run takes a moment.
 *
 *   bun run setup
 *
 * On a fresh clone: npx --yes bun@1.4.5 run setup. At that time no package is installed, so this file imports only
 * modules of Bun and Node.
 */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  bunPath,
  fail,
  fingerprint,
  must,
  pinnedBun,
  ROOT,
  run,
  StepError,
  stamp,
  stamped,
  step,
} from "./steps.ts";

const STUBS = ["sharp", "onnxruntime-web"].flatMap((name) => [
  `src/native/stubs/${name}/package.json`,
  `src/native/stubs/${name}/index.js`,
]);

/** Runs `bun install --frozen-lockfile` if package.json, bun.lock or the stubs changed since the last time. */
export async function installPackages(): Promise<void> {
  await step("packages", async () => {
    if (Bun.version !== pinnedBun() && bunPath() === process.execPath) {
      throw new StepError(
        "packages",
        `this is Bun ${Bun.version}, and the repository is pinned to ${pinnedBun()}`,
        `run it with the pinned version: npx --yes bun@${pinnedBun()} run start`,
      );
    }
    const value = fingerprint(["package.json", "bun.lock", ...STUBS], [process.platform, process.arch]);
    const path = join(ROOT, "node_modules", ".one_file_gateway");
    if (stamped(path, value)) return "unchanged";
    await must(
      "packages",
      [process.execPath, "install", "--frozen-lockfile"],
      "check the network and the registry settings (.npmrc, bunfig.toml, proxy variables), then run it again",
      { show: true },
    );
    stamp(path, value);
    return undefined;
  });
}

/** The oldest Python that runs the reader. The tools need a newer one. */
const PYTHON_MIN = [3, 9] as const;
const PYTHON_TOOLS_MIN = [3, 11] as const;
const DEBIAN_PYTHON = "/usr/bin/python3";

interface Python {
  readonly path: string;
  readonly version: readonly [number, number];
}

async function pythonAt(path: string): Promise<Python | null> {
  const result = await run([path, "-c", "import sys; print(sys.version_info[0], sys.version_info[1])"]);
  const match = /^(\d+) (\d+)$/m.exec(result.output);
  if (result.code !== 0 || match === null) return null;
  return { path, version: [Number(match[1]), Number(match[2])] };
}

function atLeast(version: readonly [number, number], least: readonly [number, number]): boolean {
  return version[0] > least[0] || (version[0] === least[0] && version[1] >= least[1]);
}

/** Finds the first Python on the PATH that is new enough. @throws StepError */
async function findPython(): Promise<Python> {
  for (const name of ["python3", DEBIAN_PYTHON, "python3.13", "python3.12", "python3.11"]) {
    const python = await pythonAt(name);
    if (python !== null && atLeast(python.version, PYTHON_MIN)) return python;
  }
  throw new StepError(
    "python",
    `no Python ${PYTHON_MIN.join(".")} or newer was found`,
    "install python3 (Debian: apt-get install python3 python3-venv), then run it again",
  );
}

/** The command prefix that runs apt-get as root; null if there is no apt-get or no way to become root. */
async function rootPrefix(): Promise<readonly string[] | null> {
  if (process.platform !== "linux" || !existsSync("/usr/bin/apt-get")) return null;
  if (process.getuid?.() === 0) return [];
  const sudo = await run(["sudo", "-n", "true"]);
  return sudo.code === 0 ? ["sudo", "-n"] : null;
}

async function debianHasTorch(): Promise<boolean> {
  if (process.platform !== "linux" || !existsSync(DEBIAN_PYTHON)) return false;
  return (await run([DEBIAN_PYTHON, "-I", "-c", "import numpy, torch, venv, ensurepip"])).code === 0;
}

/**
 * Installs Debian's own torch, a CPU build of 200 MB. PyPI's wheel for x86-64 is the CUDA build of 3 GB.
 * @returns whether the system's Python now has numpy, torch and venv.
 */
async function installDebianTorch(): Promise<boolean> {
  if (await debianHasTorch()) return true;
  const prefix = await rootPrefix();
  if (prefix === null) return false;
  const options = { env: { DEBIAN_FRONTEND: "noninteractive" }, timeoutMs: 1_200_000 };
  const packages = ["python3-torch", "python3-numpy", "python3-venv"];
  const known = await run(["apt-cache", "show", "python3-torch"]);
  if (known.code !== 0) {
    console.error("     apt-get update");
    await run([...prefix, "apt-get", "update", "-qq"], options);
  }
  console.error(`     apt-get install ${packages.join(" ")}`);
  const install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", ...packages];
  let result = await run([...prefix, ...install], options);
  if (result.code !== 0 && known.code === 0) {
    // An outdated package list names files that the mirror no longer has.
    await run([...prefix, "apt-get", "update", "-qq"], options);
    result = await run([...prefix, ...install], options);
  }
  return result.code === 0 && (await debianHasTorch());
}

const NETWORK_FIX =
  "check the network and pip's own configuration (pip.conf, PIP_INDEX_URL, PIP_CERT, proxy variables), then run it again";
const VENV_FIX =
  "install Python's venv (Debian: apt-get install python3-venv), delete the folder and run it again";

async function makeVenv(folder: string, python: Python, systemPackages: boolean): Promise<string> {
  rmSync(join(ROOT, folder), { recursive: true, force: true });
  const flags = systemPackages ? ["--system-site-packages"] : [];
  await must(folder, [python.path, "-m", "venv", ...flags, folder], VENV_FIX);
  return join(ROOT, folder, "bin", "python");
}

function pip(what: string, python: string, args: readonly string[], timeoutMs = 900_000): Promise<string> {
  const quiet = ["--disable-pip-version-check", "--no-input", "-q"];
  return must(what, [python, "-m", "pip", "install", ...quiet, ...args], NETWORK_FIX, {
    timeoutMs,
    show: true,
  });
}

const REQUIREMENTS = {
  tools: "test/py/requirements.txt",
  torch: "test/py/requirements-torch.txt",
  torchdata: "test/py/requirements-torchdata.txt",
  numpy2: "test/py/requirements-numpy2.txt",
} as const;

/** Fails if numpy or torch is missing, or if they do not fit: a torch built for numpy 1 cannot use numpy 2. */
const TORCH_CHECK =
  "import numpy, torch; torch.from_numpy(numpy.zeros(1)); print(numpy.__version__, torch.__version__)";

/** Makes `.venv` with numpy and torch, which consumer.py needs. @throws StepError */
export async function installPython(): Promise<void> {
  await step(".venv: numpy and torch", async () => {
    const venvPython = join(ROOT, ".venv", "bin", "python");
    const stampPath = join(ROOT, ".venv", ".one_file_gateway");
    const value = fingerprint([REQUIREMENTS.torch], [process.platform, process.arch]);
    if (stamped(stampPath, value) && (await run([venvPython, "-c", "import sys"])).code === 0)
      return "unchanged";
    let origin: string;
    if (await installDebianTorch()) {
      const python = await pythonAt(DEBIAN_PYTHON);
      if (python === null) throw new StepError(".venv", `${DEBIAN_PYTHON} does not run`, "reinstall python3");
      await makeVenv(".venv", python, true);
      origin = "Debian's";
    } else {
      const python = await findPython();
      await makeVenv(".venv", python, false);
      if (process.platform === "linux" && process.arch === "x64") {
        console.error(
          "     torch comes from PyPI. For x86-64 Linux that is the CUDA build, a download of about 3 GB.",
        );
        console.error(
          "     To avoid that, press Ctrl-C, run: apt-get install python3-torch python3-venv; then start again.",
        );
      }
      await pip("torch", venvPython, ["-r", REQUIREMENTS.torch], 3_600_000);
      origin = "PyPI's";
    }
    const versions = await must("torch", [venvPython, "-c", TORCH_CHECK], "delete .venv and run it again");
    stamp(stampPath, value);
    return `${origin} numpy and torch, ${versions.trim()}`;
  });
}

/** Installs ruff, mypy, pytest and the packages that make the tests' fixtures into `.venv`. @throws StepError */
export async function installPythonTools(): Promise<void> {
  await step(".venv: tools", async () => {
    const venvPython = join(ROOT, ".venv", "bin", "python");
    const stampPath = join(ROOT, ".venv", ".one_file_gateway-tools");
    const value = fingerprint([REQUIREMENTS.tools, REQUIREMENTS.torch, REQUIREMENTS.torchdata]);
    if (stamped(stampPath, value)) return "unchanged";
    await mustBeRecent(venvPython);
    // Keeps the numpy that torch was built for, even if a tool prefers a newer one.
    const numpy = await must(
      "numpy",
      [venvPython, "-c", "import numpy; print(numpy.__version__)"],
      NETWORK_FIX,
    );
    const constraints = join(ROOT, ".venv", "constraints.txt");
    stamp(constraints, `numpy==${numpy.trim()}\n`);
    await pip("tools", venvPython, ["-r", REQUIREMENTS.tools, "-c", constraints]);
    await pip("torchdata", venvPython, ["--no-deps", "-r", REQUIREMENTS.torchdata]);
    await must("torch", [venvPython, "-c", TORCH_CHECK], "delete .venv and run it again");
    stamp(stampPath, value);
    return undefined;
  });
}

async function mustBeRecent(path: string): Promise<void> {
  const python = await pythonAt(path);
  if (python !== null && atLeast(python.version, PYTHON_TOOLS_MIN)) return;
  throw new StepError(
    "Python tools",
    `${path} is Python ${python?.version.join(".") ?? "unknown"}; the pinned ruff, mypy and pytest need ${PYTHON_TOOLS_MIN.join(".")}`,
    "put a newer python3 first on the PATH, delete .venv and run it again (the gateway and consumer.py do not need these tools)",
  );
}

/** Makes `.venv-numpy2`, in which the reader's tests run on numpy 2 and without torch. @throws StepError */
export async function installNumpy2(): Promise<void> {
  await step(".venv-numpy2", async () => {
    const folder = ".venv-numpy2";
    const venvPython = join(ROOT, folder, "bin", "python");
    const stampPath = join(ROOT, folder, ".one_file_gateway");
    const value = fingerprint([REQUIREMENTS.numpy2]);
    if (stamped(stampPath, value) && (await run([venvPython, "-c", "import sys"])).code === 0)
      return "unchanged";
    const debian = (await debianHasTorch()) ? await pythonAt(DEBIAN_PYTHON) : null;
    const python = debian ?? (await findPython());
    await mustBeRecent(python.path);
    await makeVenv(folder, python, false);
    await pip(folder, venvPython, ["-r", REQUIREMENTS.numpy2]);
    stamp(stampPath, value);
    return undefined;
  });
}

/** Installs tmux, the terminal of the dashboard's end-to-end tests. Without it they are skipped, by name. */
export async function installTmux(): Promise<void> {
  await step("tmux", async () => {
    if (Bun.which("tmux") !== null) return "already installed";
    const prefix = await rootPrefix();
    if (prefix === null) return "not installed: the dashboard's end-to-end tests will be skipped";
    const options = { env: { DEBIAN_FRONTEND: "noninteractive" }, timeoutMs: 300_000 };
    const install = [...prefix, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "tmux"];
    let result = await run(install, options);
    if (result.code !== 0) {
      await run([...prefix, "apt-get", "update", "-qq"], options);
      result = await run(install, options);
    }
    return result.code === 0
      ? undefined
      : "could not be installed: the dashboard's end-to-end tests will be skipped";
  });
}

/** Runs all steps in order. @throws StepError at the first step that fails. */
export async function setup(): Promise<void> {
  await installPackages();
  await installPython();
  await installPythonTools();
  await installNumpy2();
  await installTmux();
}

if (import.meta.main) {
  try {
    await setup();
    process.exit(0);
  } catch (error) {
    fail(error);
  }
}
