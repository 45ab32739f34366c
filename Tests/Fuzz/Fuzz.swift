// The fuzzer's door to the decoders. Built with the fuzzer's runtime, which brings the main
// function (see `run` beside this file), this is a program that looks for bytes which break a
// decoder; built without it, an empty program.
//
// The first byte of an input chooses the decoder; the table is at `DecoderCheck`.

import DecoderChecks
import Glibc

/// Which decoders are wanted: their letters, from the environment; nil means all.
private enum Wanted {
  static let letters = getenv("FUZZ_ONLY").map { Array(String(cString: $0).utf8) }
}

/// One input: 0 when it was tried, -1 when its first byte names no decoder, or none that is wanted.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  if let letters = Wanted.letters, count > 0, !letters.contains(bytes[0]) { return -1 }
  return DecoderCheck.run(UnsafeRawBufferPointer(start: bytes, count: count)) ? 0 : -1
}
