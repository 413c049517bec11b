/**
 * Runs the README's first command from a clean clone in a bare Debian root file system: no driver, no compiler, no git, only
 * apt, Node and npm. Prints the answer and how long it took. As root, on Debian:
 *
 *   node test/bare/first-command.mjs [FOLDER]      an empty folder, or one that an earlier run filled
 *
 * It installs debootstrap if that is missing. It changes nothing else outside the folder, which is left where it is.
 */
import { execFileSync, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  readdirSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const SUITE = "bookworm"; // its own lavapipe is too old for Dawn: the backports must be found, too
const MIRROR = process.env.DEBIAN_MIRROR ?? mirrorOfThisMachine();
const LIMIT_MS = 30 * 60_000;

/** Where this machine's own packages come from. */
function mirrorOfThisMachine() {
  const folder = "/etc/apt/sources.list.d";
  const files = [...readdirSync(folder).map((name) => join(folder, name)), "/etc/apt/sources.list"];
  const lines = files
    .filter((file) => existsSync(file))
    .flatMap((file) => readFileSync(file, "utf8").split("\n"));
  const found = lines.map((line) => /^(?:URIs:|deb(?: \[[^\]]*\])?)\s+(https?:\S+)/.exec(line)?.[1]);
  const mirror = found.find((address) => address !== undefined);
  if (mirror === undefined) throw new Error("no Debian mirror in /etc/apt: name one as DEBIAN_MIRROR");
  return mirror;
}

const run = (file, args, options = {}) =>
  execFileSync(file, args, { stdio: ["ignore", "pipe", "inherit"], encoding: "utf8", ...options });
const say = (text) => process.stdout.write(`${text}\n`);

const firstCommand = /^npm ci && (npm run .*?) +#/m.exec(readFileSync("README.md", "utf8"))[1];
const root = process.argv[2] ?? mkdtempSync(join(tmpdir(), "tidepool-bare-"));

function makeRoot() {
  if (existsSync(join(root, "etc/debian_version"))) return say(`${root} is there already`);
  if (spawnSync("which", ["debootstrap"]).status !== 0)
    run("apt-get", ["install", "-y", "--no-install-recommends", "debootstrap"]);
  mkdirSync(root, { recursive: true });
  run("debootstrap", ["--variant=minbase", "--include=ca-certificates", SUITE, root, MIRROR]);
}

/** This Node and its npm, where Debian's packages would put them. */
function copyNode() {
  cpSync(realpathSync(process.execPath), join(root, "usr/bin/node"));
  const npm = join(run("npm", ["root", "-g"]).trim(), "npm");
  cpSync(npm, join(root, "usr/lib/node_modules/npm"), { recursive: true, dereference: true });
  for (const name of ["npm", "npx"]) {
    const link = join(root, "usr/bin", name);
    rmSync(link, { force: true });
    symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, link);
  }
}

/** A clean clone of what is committed; from an earlier run only the installed packages are dropped. */
function clone() {
  rmSync(join(root, "tidepool"), { recursive: true, force: true });
  run("git", ["clone", "--quiet", "--no-hardlinks", ".", join(root, "tidepool")]);
}

/** The registry and the certificates that reach it, as npm uses them here. */
function environment() {
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", HOME: "/root", LANG: "C.UTF-8" };
  env.npm_config_registry = run("npm", ["config", "get", "registry"]).trim();
  const certificates = process.env.NODE_EXTRA_CA_CERTS;
  if (certificates !== undefined) {
    cpSync(certificates, join(root, "etc/extra-ca.pem"));
    env.NODE_EXTRA_CA_CERTS = "/etc/extra-ca.pem";
  }
  writeFileSync(join(root, "etc/resolv.conf"), readFileSync("/etc/resolv.conf"));
  return env;
}

/** A command in the root, timed. */
function timed(command, env) {
  const before = performance.now();
  const args = [root, "sh", "-c", `cd /tidepool && ${command}`];
  const { status, stdout } = spawnSync("chroot", args, {
    env,
    timeout: LIMIT_MS,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (status !== 0) throw new Error(`${command} ended with ${status}`);
  const seconds = ((performance.now() - before) / 1000).toFixed(1);
  return { stdout: stdout.trim(), seconds };
}

makeRoot();
copyNode();
clone();
const env = environment();
run("mount", ["-t", "proc", "proc", join(root, "proc")]);
try {
  const installed = timed("npm ci --silent", env);
  const first = timed(firstCommand, env);
  const second = timed(firstCommand, env);
  if (!/^[A-Z].*\.$/.test(first.stdout)) throw new Error(`no answer: "${first.stdout}"`);
  say(`${firstCommand}\n${first.stdout}`);
  say(
    `npm ci: ${installed.seconds} s; the first command with all set-up: ${first.seconds} s; again: ${second.seconds} s`,
  );
} finally {
  run("umount", [join(root, "proc")]);
}
say(`left in ${dirname(root)}: ${root}`);
