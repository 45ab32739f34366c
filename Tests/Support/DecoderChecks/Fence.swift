import Glibc

/// Memory that ends, and begins, where no byte may be touched: a decoder that looks one byte beyond
/// what it was given ends the process there and then.
package final class Fence {
  private let map: UnsafeMutableRawPointer
  private let total: Int
  private let page = 4096

  /// Room for `capacity` bytes, rounded up to whole pages.
  package init(capacity: Int) {
    let inside = (max(capacity, 1) + page - 1) / page * page
    total = inside + 2 * page
    guard
      let map = mmap(nil, total, PROT_NONE, Int32(MAP_PRIVATE | MAP_ANONYMOUS), -1, 0),
      map != MAP_FAILED, mprotect(map + page, inside, PROT_READ | PROT_WRITE) == 0
    else { fatalError("no memory for a fence") }
    self.map = map
  }

  deinit { munmap(map, total) }

  /// The last `count` bytes before the fence; what they hold is left over from earlier uses.
  package func room(_ count: Int) -> UnsafeMutableRawBufferPointer {
    check(count >= 0 && count <= total - 2 * page, "what is fenced fits")
    return UnsafeMutableRawBufferPointer(start: map + total - page - count, count: count)
  }

  /// A copy of `bytes` right before the fence, with zeros behind them up to `count` bytes.
  package func copy(
    _ bytes: UnsafeRawBufferPointer, paddedTo count: Int? = nil
  ) -> UnsafeMutableRawBufferPointer {
    let target = room(count ?? bytes.count)
    let taken = min(bytes.count, target.count)
    target.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<taken]))
    let rest = UnsafeMutableRawBufferPointer(rebasing: target[taken...])
    rest.initializeMemory(as: UInt8.self, repeating: 0)
    return target
  }
}

/// A rule of the decoders that does not hold ends the process, which is what a fuzzer looks for.
package func check(
  _ condition: Bool, _ message: @autoclosure () -> String, file: StaticString = #fileID,
  line: UInt = #line
) {
  if !condition { fatalError(message(), file: file, line: line) }
}
