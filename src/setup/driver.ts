/**
 * Which Vulkan drivers lie on this machine (Linux). It opens none of them; adapter.ts finds out whether one can be used.
 */
import { existsSync, readdirSync } from "node:fs";
import { delimiter, join } from "node:path";

const FOLDERS = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

const LAVAPIPE = /\/lvp_icd[^/]*\.json$/;

/** The drivers' description files: those that the environment names, else those of the usual folders. */
export function driverFiles(env: NodeJS.ProcessEnv = process.env): string[] {
  const named = env["VK_DRIVER_FILES"] ?? env["VK_ICD_FILENAMES"];
  if (named) return named.split(delimiter).filter((file) => existsSync(file));
  return FOLDERS.filter((folder) => existsSync(folder)).flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => name.endsWith(".json"))
      .map((name) => join(folder, name)),
  );
}

/** The driver file of Mesa's lavapipe, whatever its version and whatever the environment names. */
export function findLavapipe(): string | undefined {
  return driverFiles({}).find((file) => LAVAPIPE.test(file));
}

/** Whether the kernel offers a GPU at all (Linux). */
export function hasRenderNode(): boolean {
  return existsSync("/dev/dri") && readdirSync("/dev/dri").some((name) => name.startsWith("renderD"));
}
