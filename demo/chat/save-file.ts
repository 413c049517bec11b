/** Hands the user a file to keep. */
export function saveFile(file: File): void {
  const href = URL.createObjectURL(file);
  const link = document.createElement("a");
  link.href = href;
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(href), KEPT_MS);
}

/** Some browsers read the file only after the click has been handled. */
const KEPT_MS = 10_000;
