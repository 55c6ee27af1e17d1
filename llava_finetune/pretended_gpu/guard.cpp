// What a CPU build of torch lacks before it takes `cuda:0` for a device: a guard, which autograd and fake tensors ask
// for devices and streams, and the hooks, which say that one GPU is there. Nothing runs behind either.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

const c10::Device the_gpu(c10::DeviceType::CUDA, 0);
const c10::Stream the_stream(c10::Stream::DEFAULT, the_gpu);

struct PretendedGuard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return the_gpu; }
  c10::Device exchangeDevice(c10::Device) const override { return the_gpu; }
  c10::Stream getStream(c10::Device) const noexcept override { return the_stream; }
  c10::Stream getNewStream(c10::Device, int) const override { return the_stream; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return the_stream; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

PretendedGuard guard;
c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, &guard);

}  // namespace

namespace at {

// torch finds the hooks by this name, once: a process that asked before this library is loaded has none for good.
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void deviceSynchronize(DeviceIndex) const override {}
};

REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at
