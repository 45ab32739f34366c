package import Base
package import DeviceIO
import Glibc

/// Devices driven by a caller who waits, for format, recovery, check and inspect: a private ring
/// over an opened set. A batch is performed in parallel, as deep as the driver goes.
///
/// It belongs to the thread that made it (R1). The loop later makes its own ring over the same
/// set; both may exist at once, as long as nothing is in flight here.
package final class RingWaitingDevices: WaitingDevices {
  private var ring: Ring
  private var driver: DeviceDriver
  private var batch = CompletionBatch()
  package let devices: DeviceSet

  /// What the ring does without.
  package var notes: [String] { ring.notes }

  package init(_ set: DeviceSet) throws(RingError) {
    var ring = try Ring(
      RingOptions(entries: 128, completions: 1024, files: UInt32(max(1, set.count)), buffers: 16))
    driver = DeviceDriver(set, on: &ring, capacity: 512, limit: 64)
    self.ring = ring
    devices = set
  }

  deinit { ring.releaseTables() }

  package var count: Int { devices.count }

  package func geometry(of device: DeviceIndex) -> DeviceGeometry { devices.geometry(of: device) }

  /// Registers memory that operations will use often (a staging ring, a sort buffer).
  @discardableResult
  package func register(_ memory: UnsafeMutableRawBufferPointer, name: String) -> Bool {
    ring.register(memory, name: name)
  }

  /// Performs all operations and waits for them; `results` are bytes or negative error numbers.
  package func perform(
    _ operations: UnsafeBufferPointer<DeviceOperation>,
    results: UnsafeMutableBufferPointer<Int32>
  ) {
    invariant(results.count >= operations.count, "W5: every operation has room for its result")
    var next = 0
    while next < operations.count || driver.pending > 0 {
      while next < operations.count, driver.room > 0 {
        var operation = operations[next]
        operation.token = UInt64(next)
        driver.submit(operation, on: &ring)
        next += 1
      }
      ring.submitAndWait(atMost: nil)
      while ring.drain(&batch) > 0 {
        for i in 0..<batch.count {
          if let done = driver.finish(batch[i], on: &ring) {
            results[Int(done.token)] = done.result
          }
        }
      }
    }
  }
}
