// Only text is embedded here, and the real package downloads a binary when it is installed.
module.exports = () => {
  throw new Error("sharp: images are not supported by this gateway");
};
