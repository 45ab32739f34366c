package import Base
package import DeviceIO
internal import CPlatform
import Glibc

/// What an opened set may do with its devices.
package enum DeviceAccess: Sendable {
  /// Reads and writes, alone: the server, format, a repairing check.
  case exclusive
  /// Only reads, while nobody writes: a check.
  case shared
  /// Only reads, whoever else is at work; what is read may be torn. For looking at a label.
  case glance
}

/// A device or file to open.
package struct DeviceRequest: Sendable {
  package var path: String
  /// Whether it has platters and a head that seeks; nil takes what the kernel says, which is often
  /// wrong for virtual disks and remote ones.
  package var isRotational: Bool?

  package init(path: String, isRotational: Bool? = nil) {
    self.path = path
    self.isRotational = isRotational
  }
}

/// The opened devices of a pool: descriptors, ownership, geometry. Closed at the end.
///
/// Invariants:
/// - V1: ownership is held by the very descriptor that does the I/O (`flock` for files, `O_EXCL`
///   for block devices), so that a killed process stays the owner until its last write has landed.
///   Record locks are not used: they pass on before.
/// - V2: direct I/O wherever the filesystem allows it; else buffered, and `notes` says so.
/// - V3: geometry does not change while the set is open.
package final class DeviceSet {
  struct Opened {
    let path: String
    let descriptor: Int32
    let geometry: DeviceGeometry
    let isBlockDevice: Bool
    let isDirect: Bool
    /// Names the file or device itself, whatever its path.
    let identity: UInt64
    let identityDevice: UInt64
  }

  let devices: [Opened]
  package let access: DeviceAccess
  /// What the set does without, each a complete sentence.
  package let notes: [String]

  /// Opens all of `paths`, in order, with what the kernel says about them; else as below.
  package convenience init(
    paths: [String], access: DeviceAccess = .exclusive, patience: Milliseconds = Milliseconds(5000)
  ) throws(DeviceOpenError) {
    try self.init(paths.map { DeviceRequest(path: $0) }, access: access, patience: patience)
  }

  /// Opens all of `requests`, in order, and makes this process their owner; tries for `patience`
  /// when one is in use. On an error nothing stays open.
  package init(
    _ requests: [DeviceRequest], access: DeviceAccess = .exclusive,
    patience: Milliseconds = Milliseconds(5000)
  ) throws(DeviceOpenError) {
    let deadline = MonotonicClock.now() + patience
    var opened: [Opened] = []
    var notes: [String] = []
    do throws(DeviceOpenError) {
      for request in requests {
        let device = try DeviceSet.open(request, access, until: deadline, among: opened)
        opened.append(device)
        if !device.isDirect {
          notes.append("\(request.path): its filesystem has no direct I/O; the page cache is used.")
        }
      }
    } catch {
      for device in opened { close(device.descriptor) }
      throw error
    }
    devices = opened
    self.access = access
    self.notes = notes
  }

  deinit {
    for device in devices { close(device.descriptor) }
  }

  package var count: Int { devices.count }

  package func geometry(of device: DeviceIndex) -> DeviceGeometry {
    devices[device.index].geometry
  }

  package func path(of device: DeviceIndex) -> String { devices[device.index].path }

  /// Whether a device is a block device (else a regular file).
  package func isBlockDevice(_ device: DeviceIndex) -> Bool { devices[device.index].isBlockDevice }

  func descriptor(of device: DeviceIndex) -> Int32 { devices[device.index].descriptor }
}
