/**
 * Counts the tests of a mode of vite.config.ts without running any: prints {"ran", "pending"} on one line, and whatever the
 * test files say while they are read. Argument: the mode.
 */
import { createVitest } from "vitest/node";

const mode = process.argv[2] ?? "test";
const options = { watch: false, disableConsoleIntercept: true, reporters: [] };
const vitest = await createVitest("test", options, { mode });
try {
  const { testModules, unhandledErrors } = await vitest.collect();
  const broken = [...unhandledErrors, ...testModules.flatMap((file) => file.errors())];
  for (const { message, stack } of broken) console.error(stack ?? message);
  const tests = testModules.flatMap((file) => [...file.children.allTests()]);
  const pending = tests.filter((test) => ["skip", "todo"].includes(test.options.mode)).length;
  console.log(JSON.stringify({ ran: tests.length - pending, pending }));
  if (broken.length > 0) process.exitCode = 1;
} finally {
  await vitest.close();
}
