// A model file in C++, without Python: onnxruntime and nothing else.
//   g++ -std=c++17 recognise.cc -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o recognise
//   ./recognise model.onnx clip.rgb
// clip.rgb: T pictures of H x W RGB bytes, one after the other. How they are cut from a video stands in the ClipSpec,
// which travels in the file as JSON under the key "dvfl".
#include <fstream>
#include <iostream>
#include <iterator>
#include <regex>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

int main(int count, char** words) {
    if (count != 3) return std::cerr << "usage: recognise model.onnx clip.rgb\n", 2;
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING);
    Ort::Session session(env, words[1], Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions allocator;
    auto json = session.GetModelMetadata().LookupCustomMetadataMapAllocated("dvfl", allocator);
    if (!json) return std::cerr << words[1] << " is no file of dvfl-export\n", 2;
    std::string text = json.get();
    std::smatch spec;  // a program of your own would take a JSON library
    if (!std::regex_search(text, spec, std::regex("\"num_frames\": ?(\\d+)"))) return 2;
    int64_t frames = std::stoll(spec[1]);
    if (!std::regex_search(text, spec, std::regex("\"size\": ?\\[(\\d+), ?(\\d+)\\]"))) return 2;
    std::vector<int64_t> shape = {1, frames, std::stoll(spec[1]), std::stoll(spec[2]), 3};

    std::ifstream file(words[2], std::ios::binary);
    std::vector<uint8_t> clip(std::istreambuf_iterator<char>(file), {});
    if (int64_t(clip.size()) != shape[1] * shape[2] * shape[3] * 3)
        return std::cerr << words[2] << " has " << clip.size() << " bytes, not T x H x W x 3\n", 2;
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto input = Ort::Value::CreateTensor<uint8_t>(memory, clip.data(), clip.size(), shape.data(), shape.size());
    const char *in[] = {"clip"}, *out[] = {"logits"};
    auto logits = session.Run({}, in, &input, 1, out, 1);
    size_t classes = logits[0].GetTensorTypeAndShapeInfo().GetElementCount();
    for (size_t i = 0; i < classes; i++) std::cout << logits[0].GetTensorData<float>()[i] << "\n";
}
