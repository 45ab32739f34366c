import Administration
import Base
import Configuration

/// What people and programs write as text.
enum TextChecks {
  /// The control socket asks again with every piece that it gets: what it once answered stays.
  static func httpRequest(_ bytes: UnsafeRawBufferPointer) {
    let whole = HTTPMessage.parseRequest(bytes)
    var isOver = false
    for count in 0..<min(bytes.count, 300) {
      let part = HTTPMessage.parseRequest(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
      check(part == whole || (part == .incomplete && !isOver), "a request's \(count) bytes")
      isOver = part != .incomplete
    }
    if case .get(let path) = whole { check(path.hasPrefix("/"), "a path is absolute") }
  }

  static func httpResponse(_ bytes: UnsafeRawBufferPointer) {
    guard let (status, body) = HTTPMessage.parseResponse(Array(bytes)) else { return }
    check(body.count <= bytes.count, "a body was received")
    let same = HTTPMessage.parseResponse(HTTPMessage.response(status: status, body: body))
    check(same?.status == status && same?.body == body, "a response reads back equal")
  }

  /// A file as `PoolConfiguration.read` lets it through: text in UTF-8 without NUL.
  static func configuration(_ bytes: UnsafeRawBufferPointer) {
    guard let text = String(validating: bytes, as: UTF8.self), !text.utf8.contains(0) else {
      return
    }
    do throws(ConfigurationError) {
      checkConfiguration(try PoolConfiguration.parse(text, file: "c.toml"))
    } catch {
      check(!error.mistakes.isEmpty, "K4: a refusal has a reason")
      let lines = text.utf8.count { $0 == UInt8(ascii: "\n") } + 1
      for mistake in error.mistakes {
        check((1...lines).contains(mistake.line ?? 1), "K4: line \(mistake.line ?? 0) is there")
        check(!mistake.expected.isEmpty && !mistake.found.isEmpty, "K4: a mistake is explained")
      }
    }
  }

  private static func checkConfiguration(_ c: PoolConfiguration) {
    func isSize(_ bytes: UInt64, least: UInt64) -> Bool { bytes >= least && bytes % 4096 == 0 }
    check((1...ConfigurationLimits.tiers).contains(c.tiers.count), "K1: one to eight tiers")
    check(c.tiers.allSatisfy { !$0.devices.isEmpty }, "K1: each tier has a device")
    check(Set(c.tiers.map(\.name)).count == c.tiers.count, "K1: each tier has its name")
    let paths = c.devices.map(\.settings.path)
    check(paths.count <= ConfigurationLimits.devices, "K1: no more devices than a pool counts")
    // As the kernel reads them: up to a NUL.
    let read = paths.map { Array($0.utf8.prefix { $0 != 0 }) }
    check(Set(read).count == paths.count, "K1: each device once: \(paths)")
    check(isSize(c.memory, least: ConfigurationLimits.minimumMemory), "K2: memory")
    check(isSize(c.volume.size, least: ConfigurationLimits.minimumVolume), "K2: volume")
    check(c.log.size.map { isSize($0, least: ConfigurationLimits.minimumLog) } ?? true, "K2: log")
    for device in c.devices {
      let size = device.settings.size
      check(size.map { isSize($0, least: ConfigurationLimits.minimumDevice) } ?? true, "K2: device")
      check(device.settings.path.hasPrefix("/"), "a path is absolute")
    }
    let listen = c.listen
    check(
      listen.unix != nil || !listen.tcp.isEmpty || listen.vsock != nil, "K3: it is reachable")
    check(!c.volume.name.isEmpty && c.volume.name.utf8.count <= 63, "a name fits")
    _ = LogSettings.defaultSize(firstTierBytes: c.volume.size, memory: 1 << 30, segment: 8 << 20)
  }

  static func words(_ bytes: UnsafeRawBufferPointer) {
    let text = String(decoding: bytes, as: UTF8.self)
    if let size = try? SizeText.parse(text) {
      check(!SizeText.rounded(size).isEmpty, "a size can be shown")
      let exact = SizeText.exact(size)
      check(size < 1024 || (try? SizeText.parse(exact)) == size, "\(exact) reads back equal")
    }
    if let identity = Identity(text) {
      check(Identity(identity.description) == identity, "an identity reads back equal")
    }
  }
}
