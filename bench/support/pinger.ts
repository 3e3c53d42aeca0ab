/** Asks /health again and again until it is ended, from a process of its own, and prints the longest answer in ms. */
const url = process.argv[2] ?? "";
let longestMs = 0;
process.on("SIGTERM", () => {
  console.log(longestMs);
  process.exit(0);
});
for (;;) {
  const startedMs = performance.now();
  await (await fetch(url)).arrayBuffer();
  longestMs = Math.max(longestMs, performance.now() - startedMs);
  await Bun.sleep(1);
}

export {};
