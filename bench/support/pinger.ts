/** Requests a URL again and again from its own process, until SIGTERM. Then it prints the longest response time in ms. */
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
