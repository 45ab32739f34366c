import ArgumentParser
import CNetlink
import Configuration
import DiskFormat
import Glibc

struct GrowDeviceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "grow-device",
    abstract: "Tell the kernel's NBD client that its volume has grown.",
    discussion: """
      The kernel learns a device's size when nbd-client attaches it. When the server's volume has \
      grown since, this makes the attached device as large, under use: the filesystem on it can be \
      grown then (resize2fs, xfs_growfs). Runs as root, where the device is attached, which need \
      not be where the server is. `nbdinfo --size URI` says how large the volume is.

      Exit status: 0 the device has the size; 2 it has not, with the reason.
      """)

  @Argument(help: "The attached device.", completion: .file())
  var device: String

  @Argument(help: "The volume's size now: bytes, or with KiB, MiB, GiB, TiB.")
  var size: String

  func run() throws {
    try carryOut {
      let bytes = try wantedBytes()
      guard let name = device.split(separator: "/").last, name.hasPrefix("nbd"),
        let index = UInt32(name.dropFirst(3))
      else { throw Refusal("\(device) is no NBD device: expected one such as /dev/nbd0.") }
      let known = SystemFile.read("/sys/block/\(name)/size")
      guard let sectors = known.flatMap({ UInt64($0.dropLast()) }) else {
        throw Refusal("\(device) is not there: is the module nbd loaded?")
      }
      guard sectors > 0 else {
        throw Refusal("\(device) is not attached: attach it with nbd-client first.")
      }
      guard bytes >= sectors * 512 else {
        throw Refusal(
          "\(device) has \(SizeText.exact(sectors * 512)), more than \(SizeText.exact(bytes)): a "
            + "volume only grows.")
      }
      try NBDNetlink.setSize(ofDevice: index, bytes)
      Console.printResult("\(device) has \(SizeText.exact(bytes))")
    }
  }

  private func wantedBytes() throws -> UInt64 {
    let bytes = UInt64(size) ?? (try? SizeText.parse(size))
    guard let bytes, Superblock.isVolumeSize(bytes) else {
      throw Refusal(
        "\(size) is no size of a volume: expected a multiple of 4 KiB up to 4096TiB, in bytes or "
          + "such as 2TiB.")
    }
    return bytes
  }
}

/// The kernel's NBD client, by generic netlink (`linux/nbd-netlink.h`).
private enum NBDNetlink {
  static func setSize(ofDevice index: UInt32, _ bytes: UInt64) throws {
    func refuse(_ code: Int32) -> Refusal {
      let reason = String(cString: nl_geterror(code))
      return Refusal(
        "The kernel's NBD client does not take the size: \(reason).",
        "It needs root, and a device that nbd-client has attached by netlink (its default).")
    }
    guard let socket = nl_socket_alloc() else { throw refuse(-NLE_NOMEM) }
    defer { nl_socket_free(socket) }
    let connected = genl_connect(socket)
    guard connected >= 0 else { throw refuse(connected) }
    let family = genl_ctrl_resolve(socket, NBD_GENL_FAMILY_NAME)
    guard family >= 0 else { throw refuse(family) }
    guard let message = nlmsg_alloc() else { throw refuse(-NLE_NOMEM) }
    guard
      genlmsg_put(
        message, 0, 0, family, 0, 0, UInt8(NBD_CMD_RECONFIGURE),
        UInt8(NBD_GENL_VERSION)) != nil,
      nla_put_u32(message, Int32(NBD_ATTR_INDEX), index) >= 0,
      nla_put_u64(message, Int32(NBD_ATTR_SIZE_BYTES), bytes) >= 0
    else {
      nlmsg_free(message)
      throw refuse(-NLE_NOMEM)
    }
    // It frees the message.
    let answer = nl_send_sync(socket, message)
    guard answer >= 0 else { throw refuse(answer) }
  }
}
