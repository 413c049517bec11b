/** A process that downloads a model, to be killed: the address is its first argument, the folder its second. */
import { openFilesFolder } from "../../src/load/download/kept/folder-files.ts";
import { RemoteLoad } from "../../src/load/download/remote-load.ts";

const [url, directory] = process.argv.slice(2) as [string, string];
let isTold = false;
const load = new RemoteLoad({
  folder: await openFilesFolder(directory),
  onProgress: () => {
    if (!isTold) process.stdout.write("started\n");
    isTold = true;
  },
});
await load.open({ kind: "url", url });
await load.finish();
await load.close();
process.stdout.write("done\n");
