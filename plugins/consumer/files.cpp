// What `segment` reads and writes.

#include "files.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace
{

constexpr int64_t kVersion = 4;         // of ENGINE.json
constexpr int64_t kLargestSide = 32768; // 3 GB of pixels

void require(nlohmann::json const& value, char const* wanted, std::string const& what, std::string const& form)
{
    if (value != wanted)
    {
        throw unfit(what + " " + value.dump(), form);
    }
}

Facts factsOf(nlohmann::json const& json)
{
    if (json.at("version") != kVersion)
    {
        throw std::runtime_error("they have version " + json.at("version").dump());
    }
    auto const& spec = json.at("spec");
    auto const& made = spec.at("export");
    auto const& profile = json.at("profile");
    bool const labels = made.at("output") == "labels";
    bool const remaps = spec.contains("remap") && !spec.at("remap").is_null();
    std::string const form = remaps ? "labels --remap FILE.json" : "logits"; // that this program runs
    if (labels && made.contains("label_type") && !made.at("label_type").is_null())
    {
        std::string const type = made.at("label_type");
        if (type != "uint8" && type != "int32")
        {
            throw unfit("labels in " + type, form);
        }
    }
    if (!labels)
    {
        require(made.at("output"), "logits", "the output", form);
        if (remaps)
        {
            throw unfit("logits of classes still to be remapped", form);
        }
        if (made.contains("layout") && !made.at("layout").is_null())
        {
            require(made.at("layout"), "nchw", "logits in the layout", form);
        }
    }
    require(made.value("image", nlohmann::json("float32")), "float32", "the input", form);
    if (profile.at("minimum").at("batch") != 1)
    {
        throw unfit("a smallest batch of " + profile.at("minimum").at("batch").dump(), form);
    }
    auto const sizeOf = [&](char const* which) {
        return Size{profile.at(which).at("height"), profile.at(which).at("width")};
    };
    bool const embedded = json.at("plugins_embedded");
    Facts facts{};
    facts.classes = spec.at("network").at("num_classes");
    facts.names = spec.at("classes").at("names").get<std::vector<std::string>>();
    facts.unnamed = remaps ? spec.at("remap").at("void").get<int64_t>() : -1;
    facts.mean = spec.at("input").at("mean").get<std::array<float, 3>>();
    facts.std = spec.at("input").at("std").get<std::array<float, 3>>();
    facts.swap = spec.at("input").at("channel_order") == "rgb";
    facts.returnsLabels = labels;
    facts.needsPlugins = !json.at("plugins").empty() && !embedded;
    facts.hasCode = embedded || json.at("version_compatible").get<bool>();
    facts.tensorrt = json.at("tensorrt_version");
    facts.least = sizeOf("minimum");
    facts.most = sizeOf("maximum");
    return facts;
}

//! Reads the next number of a PPM file's header, after blanks and comments.
int64_t nextNumber(std::istream& file)
{
    while (std::isspace(file.peek()) || file.peek() == '#')
    {
        if (file.get() == '#')
        {
            std::string comment;
            std::getline(file, comment);
        }
    }
    int64_t number = -1;
    file >> number;
    return file ? number : -1;
}

} // namespace

Failure::Failure(std::string const& problem, std::string const& expected, std::string const& fix)
    : std::runtime_error(problem + "\n  expected: " + expected + "\n  try: " + fix)
{
}

Failure unfit(std::string const& seen, std::string const& form)
{
    std::string const fix = form.empty()
        ? "it does not fit its facts, so build it again with the same options: alignseg export-trt MODEL -o ENGINE"
        : "build another one from the checkpoint: alignseg export-trt MODEL -o ENGINE --output " + form;
    return Failure("this program cannot run the engine: it has " + seen,
        "an image (N, 3, H, W) of floats from a batch of 1, and logits (N, C, h, w), or labels in uint8 or int32",
        fix);
}

std::string Size::text() const
{
    return std::to_string(height) + "x" + std::to_string(width);
}

Size Facts::inputSize(Size image, std::string const& asked) const
{
    bool const isFixed = least.height == most.height && least.width == most.width;
    Size size = isFixed ? most : image;
    char after = 0;
    if (!asked.empty()
        && std::sscanf(asked.c_str(), "%5ldx%5ld%c", &size.height, &size.width, &after) != 2)
    {
        throw Failure("'" + asked + "' is not a size", "HEIGHTxWIDTH", "write it like " + most.text());
    }
    if (size.height < least.height || size.height > most.height || size.width < least.width || size.width > most.width)
    {
        throw Failure("the engine's input would be " + size.text() + " (height x width)",
            least.text() + " to " + most.text() + ", the range that it was built for",
            "give a size after the labels, such as " + most.text() + ", to which the image is resized");
    }
    return size;
}

std::string Facts::shares(std::vector<uint16_t> const& labels) const
{
    std::vector<int64_t> counts(names.size());
    for (uint16_t const label : labels)
    {
        if (label == unnamed)
        {
            continue;
        }
        if (label >= counts.size())
        {
            throw unfit("the label " + std::to_string(label) + " among " + std::to_string(names.size()) + " classes");
        }
        ++counts[label];
    }
    std::ostringstream text;
    text.precision(1);
    for (size_t label = 0; label < counts.size(); ++label)
    {
        if (counts[label] > 0)
        {
            double const share = 100.0 * static_cast<double>(counts[label]) / static_cast<double>(labels.size());
            text << (text.tellp() > 0 ? ", " : "; ") << names[label] << " " << std::fixed << share << " %";
        }
    }
    return text.str();
}

bool exists(std::string const& path)
{
    return std::ifstream(path).good();
}

std::string folderOf(std::string const& path)
{
    return path.substr(0, path.find_last_of('/') + 1);
}

std::string readFile(std::string const& path, std::string const& what)
{
    std::ifstream file(path, std::ios::binary);
    std::string content{std::istreambuf_iterator<char>(file), {}};
    if (content.empty())
    {
        throw Failure(path + " is empty, or cannot be read", what, "check the path: ls -l " + path);
    }
    return content;
}

Facts readFacts(std::string const& path)
{
    std::string const content = readFile(path, "the facts that alignseg writes beside an engine");
    try
    {
        return factsOf(nlohmann::json::parse(content));
    }
    catch (Failure const&)
    {
        throw;
    }
    catch (std::exception const& error)
    {
        throw Failure(path + " cannot be read: " + error.what(), "facts of version " + std::to_string(kVersion),
            "write this folder again: alignseg deploy cpp ENGINE -o FOLDER");
    }
}

Image readImage(std::string const& path)
{
    std::istringstream file(readFile(path, "a PPM image (P6)"));
    std::string kind(2, ' ');
    file.read(kind.data(), 2);
    int64_t const width = nextNumber(file), height = nextNumber(file), largest = nextNumber(file);
    file.get(); // the one blank before the pixels
    bool const isKnown = kind == "P6" && largest == 255 && std::min(height, width) > 0;
    Image image{{height, width}, {}};
    if (isKnown && std::max(height, width) <= kLargestSide)
    {
        image.bgr.resize(static_cast<size_t>(3 * height * width));
        file.read(reinterpret_cast<char*>(image.bgr.data()), 3 * height * width);
    }
    if (image.bgr.empty() || file.gcount() != 3 * height * width)
    {
        throw Failure(path + " is not a whole PPM image of 8 bits", "a file that begins with P6, with 255 as maximum",
            "convert it: ffmpeg -i IMAGE -pix_fmt rgb24 IMAGE.ppm");
    }
    for (size_t pixel = 0; pixel < image.bgr.size(); pixel += 3)
    {
        std::swap(image.bgr[pixel], image.bgr[pixel + 2]);
    }
    return image;
}

void writeLabels(std::string const& path, std::vector<uint16_t> const& labels, Size size, int64_t largest)
{
    std::string content = "P5\n" + std::to_string(size.width) + " " + std::to_string(size.height) + "\n";
    content += largest > 255 ? "65535\n" : "255\n";
    for (uint16_t const label : labels)
    {
        if (largest > 255)
        {
            content += static_cast<char>(label >> 8);
        }
        content += static_cast<char>(label & 0xFF);
    }
    std::ofstream file(path, std::ios::binary);
    file << content;
    if (!file.flush())
    {
        throw Failure(path + " cannot be written", "a folder that can be written, and room on its disk",
            "choose another file for the labels");
    }
}
