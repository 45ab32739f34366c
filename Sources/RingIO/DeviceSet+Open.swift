internal import Base
internal import CPlatform
internal import DeviceIO
import Glibc

/// Opening one device: look, open, own, measure.
extension DeviceSet {
  static func open(
    _ request: DeviceRequest, _ access: DeviceAccess, until deadline: Instant,
    among others: [Opened]
  ) throws(DeviceOpenError) -> Opened {
    let path = request.path
    var facts = stat()
    guard stat(path, &facts) == 0 else {
      throw DeviceOpenError(path, SystemError.last("stat"))
    }
    let type = facts.st_mode & S_IFMT
    guard type == S_IFBLK || type == S_IFREG else { throw DeviceOpenError(path, .unsuitable) }
    let isBlockDevice = type == S_IFBLK
    let identity = isBlockDevice ? UInt64(facts.st_rdev) : UInt64(facts.st_ino)
    let identityDevice = isBlockDevice ? UInt64.max : UInt64(facts.st_dev)
    for other in others
    where other.identity == identity && other.identityDevice == identityDevice {
      throw DeviceOpenError(path, .duplicate(of: other.path))
    }
    let handle = try own(path, access, isBlockDevice, until: deadline)
    do throws(DeviceOpenError) {
      var direct = handle.isDirect
      var geometry = try measure(path, handle.descriptor, isBlockDevice, facts, &direct)
      if let isRotational = request.isRotational { geometry.isRotational = isRotational }
      return Opened(
        path: path, descriptor: handle.descriptor, geometry: geometry,
        isBlockDevice: isBlockDevice, isDirect: direct, identity: identity,
        identityDevice: identityDevice)
    } catch {
      close(handle.descriptor)
      throw error
    }
  }

  /// How much longer to wait for the I/O of a process that was killed.
  private static var killedPatience: Milliseconds { Milliseconds(25_000) }

  private struct Handle {
    let descriptor: Int32
    let isDirect: Bool
  }

  /// Opens and owns (V1), again and again until the deadline while somebody else is the owner.
  private static func own(
    _ path: String, _ access: DeviceAccess, _ isBlockDevice: Bool, until deadline: Instant
  ) throws(DeviceOpenError) -> Handle {
    var flags = O_CLOEXEC | (access == .exclusive ? O_RDWR : O_RDONLY)
    if isBlockDevice, access != .glance { flags |= O_EXCL }
    while true {
      var isDirect = true
      var descriptor = Glibc.open(path, flags | platform_direct_flag())
      if descriptor < 0, errno == EINVAL {
        isDirect = false
        descriptor = Glibc.open(path, flags)
      }
      var code = descriptor < 0 ? errno : 0
      if descriptor >= 0, access != .glance {
        // A block device is locked too: udev then keeps its hands off.
        code = -platform_lock(descriptor, access == .exclusive ? 1 : 0)
        if code != 0 { close(descriptor) }
      }
      if code == 0 { return Handle(descriptor: descriptor, isDirect: isDirect) }
      let isBusy = code == EBUSY || code == EAGAIN || code == EINTR
      if !isBusy || !(MonotonicClock.now() < deadline) {
        var error = DeviceOpenError(path, SystemError("open", code: code))
        var facts = stat()
        if isBusy, stat(path, &facts) == 0 {
          error.holder = LockHolder.describe(facts)
          if LockHolder.isGone(facts), MonotonicClock.now() < deadline + killedPatience {
            usleep(200_000)
            continue
          }
        }
        throw error
      }
      usleep(20_000)
    }
  }

  private static func measure(
    _ path: String, _ descriptor: Int32, _ isBlockDevice: Bool, _ facts: stat,
    _ isDirect: inout Bool
  ) throws(DeviceOpenError) -> DeviceGeometry {
    var size: UInt64 = 0
    var logical: UInt32 = 512
    var physical: UInt32 = 4096
    var canDiscard = true
    let queue = QueueFacts(device: UInt64(isBlockDevice ? facts.st_rdev : facts.st_dev))
    if isBlockDevice {
      let results = [
        platform_device_size(descriptor, &size), platform_logical_block(descriptor, &logical),
        platform_physical_block(descriptor, &physical),
      ]
      if let bad = results.first(where: { $0 < 0 }) {
        throw DeviceOpenError(path, .system(SystemError("ioctl", code: -bad)))
      }
      // Without either, punching a hole would write zeros, which is no hint but work.
      canDiscard =
        (queue.number("discard_max_bytes") ?? 0) > 0
        && (queue.number("write_zeroes_max_bytes") ?? 0) > 0
    } else {
      // By the descriptor: the path may lead elsewhere by now.
      var now = stat()
      guard fstat(descriptor, &now) == 0 else {
        throw DeviceOpenError(path, SystemError.last("fstat"))
      }
      size = UInt64(now.st_size)
      logical = fileAlignment(descriptor, &isDirect)
    }
    guard logical >= 512, logical <= 4096, logical & (logical - 1) == 0 else {
      throw DeviceOpenError(path, .blockSize(Int(logical)))
    }
    size &= ~UInt64(logical - 1)
    guard size > 0 else { throw DeviceOpenError(path, .empty) }
    return DeviceGeometry(
      size: size, logicalBlock: Int(logical), physicalBlock: Int(max(physical, logical)),
      isRotational: queue.number("rotational") == 1, supportsDiscard: canDiscard)
  }

  /// The unit of direct I/O on a file. Where kernel or filesystem do not say, 4096 suits all.
  private static func fileAlignment(_ descriptor: Int32, _ isDirect: inout Bool) -> UInt32 {
    guard isDirect else { return 512 }
    var memory: UInt32 = 0
    var offset: UInt32 = 0
    guard platform_direct_alignment(descriptor, &memory, &offset) == 0 else { return 4096 }
    if offset == 0 {
      isDirect = false
      _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~platform_direct_flag())
      return 512
    }
    return max(512, memory, offset)
  }
}

/// The numbers the kernel publishes about a device's queue below `/sys/dev/block`.
struct QueueFacts {
  let major: UInt32
  let minor: UInt32

  init(device: UInt64) {
    var major: UInt32 = 0
    var minor: UInt32 = 0
    platform_split_device(device, &major, &minor)
    self.major = major
    self.minor = minor
  }

  /// The attribute of the device itself, or of the disk whose partition it is; nil when there is
  /// none (filesystems without a device, such as tmpfs).
  func number(_ attribute: String) -> UInt64? {
    let device = "/sys/dev/block/\(major):\(minor)/"
    return read(device + "queue/" + attribute) ?? read(device + "../queue/" + attribute)
  }

  private func read(_ path: String) -> UInt64? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes = InlineArray<32, UInt8>(repeating: 0)
    var span = bytes.mutableSpan
    let count = span.withUnsafeMutableBufferPointer { Glibc.read(descriptor, $0.baseAddress, 32) }
    var value: UInt64? = nil
    for i in 0..<max(0, count) {
      guard bytes[i] >= 48, bytes[i] <= 57 else { break }
      value = (value ?? 0) &* 10 &+ UInt64(bytes[i] - 48)
    }
    return value
  }
}
